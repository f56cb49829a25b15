"""Pieces of a plain HTML page: readable in light and dark, and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from usdm.inspection.statistics import Distribution

NONE = "–"
MOST_ROWS = 30  # of a table; the JSON has the rest

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 18%, Canvas); --accent: #0f766e; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1.25rem;
  background: Canvas; color: CanvasText; }
h1 { margin-bottom: .2rem; } h2 { margin-top: 2.5rem; border-bottom: 2px solid var(--accent); }
h3 { margin: 1.6rem 0 .4rem; }
h4 { margin: 1rem 0 0; } h4 + .quiet { margin: 0 0 .3rem; } p { max-width: 48rem; }
.quiet { color: color-mix(in srgb, CanvasText 65%, Canvas); font-size: .9em; }
table { border-collapse: collapse; margin: .4rem 0 1rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: middle; padding: .22rem .9rem .22rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; }
th { font-weight: 600; white-space: nowrap; } td.number, th.number { text-align: right; white-space: nowrap; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: .8rem; }
figure { margin: 0; break-inside: avoid; } figure svg { width: 100%; height: auto; }
figcaption { font-weight: 600; font-size: .92em; }
.tables { display: flex; flex-wrap: wrap; gap: 0 3rem; } tr { break-inside: avoid; }
.fault { color: #dc2626; font-weight: 600; } .notice { color: inherit; }
audio { height: 2rem; width: 15rem; }
@media print { audio { display: none; } body { margin: 0; max-width: none; font-size: 11px; } }
"""


class Raw(str):
    """HTML already: a cell that is not to be escaped."""


def page(title: str, body: Iterable[str]) -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        "<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], most: int | None = MOST_ROWS) -> str:
    """Numbers stand to the right. An empty `head` leaves the heading out."""
    rows = list(rows)
    shown = rows if most is None else rows[:most]
    numbers = [bool(shown) and all(_is_number(row[i]) for row in shown) for i in range(len(shown[0]))] if shown else []
    heading = "".join(_cell("th", name, right) for name, right in zip(head, numbers, strict=False))
    lines = ["<tr>" + "".join(map(_cell, ["td"] * len(row), row, numbers)) + "</tr>" for row in shown]
    more = f'<p class="quiet">and {len(rows) - len(shown):,} more</p>' if len(rows) > len(shown) else ""
    top = f"<thead><tr>{heading}</tr></thead>" if head else ""
    return f"<table>{top}<tbody>{''.join(lines)}</tbody></table>{more}"


def figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def quiet(text: str) -> str:
    return f'<p class="quiet">{escape(text)}</p>'


def number(value: float) -> str:
    """Three significant digits, whole numbers in full."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def spread(found: Distribution | None, unit: str) -> str:
    """Median, and between what 90 % lie."""
    if found is None:
        return NONE
    low, high = number(found.percentile_5), number(found.percentile_95)
    return f"{number(found.median)} {unit} (median; 90 % in {low} to {high})".replace("  ", " ")


def pairs(facts: Mapping[str, object]) -> str:
    """Names and values."""
    return table((), facts.items(), most=None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _cell(kind: str, value: object, right: bool) -> str:
    shown = value if isinstance(value, Raw) else escape(number(value) if isinstance(value, int | float) else str(value))
    return f'<{kind} class="number">{shown}</{kind}>' if right else f"<{kind}>{shown}</{kind}>"
