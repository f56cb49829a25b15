"""Figures of many scores, with all that a reader must know of them: n, unparsed, failed, interval, who scored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from usdm.metrics.table import NONE, markdown_table


@dataclass(frozen=True)
class Count:
    """What became of the questions of one subset."""

    asked: int
    failed: int  # no reply was made; they are in no figure
    empty: int  # replies without words


@dataclass(frozen=True)
class Figure:
    """A sum of values over a sum of weights, over the items of one subset: mostly their mean."""

    subset: str
    name: str
    channel: str
    scored_by: str  # a rule, or a judge and its version
    value: float
    low: float  # 95 %, bootstrap over items
    high: float
    items: int
    unparsed: int = 0  # of them, replies from which no answer could be told: they count as wrong
    unjudged: int = 0  # besides them, verdicts that were not in the form that was asked for: not counted


@dataclass(frozen=True)
class AssistantScorecard:
    """What a benchmark found."""

    benchmark: str
    figures: tuple[Figure, ...]
    counts: Mapping[str, Count]  # by subset
    absent: tuple[str, ...]  # figures that are not there, and why
    left_out: tuple[str, ...]  # parts of the benchmark that were not asked, and why
    facts: Mapping[str, Any]

    @property
    def failed(self) -> int:
        return sum(count.failed for count in self.counts.values())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def to_markdown(self) -> str:
        header = ["subset", "figure", "of", "value", "95 %", "n", "unparsed", "unjudged", "failed", "scored by"]
        rows = [self._cells(figure) for figure in self.figures]
        parts = [f"# {self.benchmark}", markdown_table(header, rows) if rows else "No figures."]
        for title, lines in (("Absent", self.absent), ("Left out", self.left_out)):
            if lines:
                parts.append(f"{title}:\n" + "\n".join(f"- {line}" for line in lines))
        parts.append(
            "\n".join(f"- {name}: {value}" for name, value in self.facts.items() if isinstance(value, str | int))
        )
        return "\n\n".join(parts) + "\n"

    def _cells(self, figure: Figure) -> list[str]:
        interval = NONE if figure.items < 2 else f"{figure.low:.3f} to {figure.high:.3f}"
        counts = (figure.items, figure.unparsed, figure.unjudged, self.counts[figure.subset].failed)
        return [
            figure.subset,
            figure.name,
            figure.channel,
            f"{figure.value:.3f}",
            interval,
            *map(str, counts),
            figure.scored_by,
        ]


def numbers_of(figures: Sequence[Figure]) -> Iterator[tuple[str, float]]:
    """Names that are all different, for a table of runs."""
    for figure in figures:
        yield f"{figure.subset} {figure.name} ({figure.channel})", figure.value
