"""Turn detection on several sets of held-out turns: tables, JSON, and curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from usdm.evaluation.turn_detection import Comparison, HeardTurn, Point, Rule, SpokenTurn, compare, hear, judge
from usdm.turns import TurnHeadRule


@dataclass(frozen=True)
class TurnTable:
    """Of one set of turns."""

    name: str
    turns: int
    with_pause: int
    silence: list[Point]  # by window
    head: list[Point]  # by long pause and threshold
    comparisons: list[Comparison]  # of the head's rule, under each threshold


def turn_table(
    name: str,
    turns: Sequence[SpokenTurn],
    over: Callable[[Tensor], float],
    rule: TurnHeadRule,
    thresholds: Sequence[float],
    long_ms: Sequence[int],
    silence_ms: Sequence[int],
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TurnTable:
    """Hear each turn once and judge every rule on it. `over`: the head's probability, of the sound up to now."""
    heard: list[HeardTurn] = []
    for turn in turns:
        heard.append(hear(turn, rule, over, rule.short_ms))
        progress(len(heard), len(turns))
    silence = [judge(Rule(window, window, 0.0), heard, seed) for window in sorted(silence_ms)]
    own = Rule(rule.short_ms, rule.long_ms, rule.over)
    grid = {replace(own, long=long, threshold=each) for long in long_ms for each in thresholds}
    head = [judge(each, heard, seed) for each in sorted({own, *grid}, key=lambda each: (each.long, each.threshold))]
    compared = [compare(point, silence, heard, seed) for point in head if point.rule.long == own.long]
    return TurnTable(name, len(turns), sum(bool(turn.pauses) for turn in turns), silence, head, compared)


def turn_markdown(tables: Sequence[TurnTable]) -> str:
    lines = []
    for table in tables:
        lines += [
            f"### {table.name}: {table.turns} turns, {table.with_pause} with a pause",
            "",
            "| head's threshold | median delay | mean | cut off (95 %) | silence as fast | cuts off | "
            "difference (95 %) | silence as safe | its median |",
            "|" + "---|" * 9,
            *map(_row, table.comparisons),
            "",
        ]
    return "\n".join(lines)


def _row(found: Comparison) -> str:
    head, fast, gap = found.head, found.as_fast, found.fewer_cut_off
    safe = found.as_safe
    cells = [
        f"{head.rule.threshold:g}",
        f"{head.median_delay:.2f} s",
        f"{head.mean_delay:.2f} s",
        f"{_percent(head.cut_off.mean)} ({_percent(head.cut_off.low)} to {_percent(head.cut_off.high)})",
        f"{fast.rule.long} ms",
        _percent(fast.cut_off.mean),
        f"{100 * gap.gap:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})",
        "none" if safe is None else f"{safe.rule.long} ms",
        "" if safe is None else f"{safe.median_delay:.2f} s",
    ]
    return f"| {' | '.join(cells)} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def turn_json(tables: Sequence[TurnTable], facts: Mapping[str, object]) -> str:
    return json.dumps({"facts": dict(facts), "sets": [asdict(table) for table in tables]}, indent=1) + "\n"


def draw_turn_curves(tables: Sequence[TurnTable], path: Path) -> None:
    """Cut-offs over the delay, median above and mean below, a column for each set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(tables), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(tables), squeeze=False)
    for column, table in enumerate(tables):
        for row, name in enumerate(("median_delay", "mean_delay")):
            axis = axes[row][column]
            _draw(axis, table.silence, name, "silence alone", "#b63b3b", "-o")
            for long in dict.fromkeys(point.rule.long for point in table.head):
                points = [point for point in table.head if point.rule.long == long]
                _draw(axis, points, name, f"head, else {long / 1000:g} s", None, "-s")
            axis.set_title(f"{table.name} ({table.with_pause} turns with a pause)", fontsize=9)
            axis.set_xlabel(f"{name.replace('_', ' ')} after the turn (s)", fontsize=8)
            axis.set_ylabel("turns cut off (%)", fontsize=8)
            axis.set_ylim(bottom=0)
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def _draw(axis: object, points: Sequence[Point], name: str, label: str, colour: str | None, style: str) -> None:
    across = [getattr(point, name) for point in points]
    up = [100 * point.cut_off.mean for point in points]
    axis.plot(across, up, style, markersize=3, linewidth=1, label=label, color=colour)  # type: ignore[attr-defined]
