"""Figures as cells of Markdown tables that also read well on a console."""

from __future__ import annotations

from collections.abc import Sequence

from usdm.metrics.figures import Figure, FigureGap
from usdm.metrics.intervals import Mean, MeanGap, WordErrorGap, WordErrorRate
from usdm.metrics.text import FalseAlarms

NONE = "–"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to the same width."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [[name.ljust(width) for name, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rate_cell(rate: WordErrorRate | None) -> str:
    """Per cent and interval."""
    if rate is None:
        return NONE
    return f"{100 * rate.rate:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def mean_cell(mean: Mean | None) -> str:
    return NONE if mean is None else f"{mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f})"


def gap_cell(gap: WordErrorGap | MeanGap | None) -> str:
    """Of rates in points, of means as they are."""
    if gap is None:
        return NONE
    if isinstance(gap, MeanGap):
        return f"{gap.gap:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
    return f"{100 * gap.gap:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


def false_alarms_cell(alarms: FalseAlarms | None) -> str:
    if alarms is None:
        return NONE
    return f"{alarms.words} words in {alarms.with_words} of {alarms.turns} turns"


def figure_cell(figure: Figure | None) -> str:
    """Value and interval."""
    if figure is None or figure.value is None:
        return NONE
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def figure_gap_cell(gap: FigureGap | None) -> str:
    return NONE if gap is None else f"{gap.gap:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
