"""What a benchmark asks, and what a score is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from usdm.types import Turn


@dataclass(frozen=True)
class Item:
    """One question."""

    id: str  # names files
    subset: str
    question: str  # its words
    scoring: str  # a rule of `usdm.assistants.rules`, or a rubric of `usdm.assistants.rubrics`
    audio: Path | None = None  # the question as it was recorded
    reference: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else the scoring reads
    history: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Score:
    """Of one reply. A figure is the sum of values over the sum of weights: a mean where each weight is 1."""

    value: float
    weight: float = 1.0
    parsed: bool = True  # False: no answer could be told from the reply, which counts as a wrong one


UNPARSED = Score(0.0, parsed=False)

Scores = Mapping[str, Score]  # by the figure's name


@dataclass(frozen=True)
class Judged:
    """One channel of one item: a reply as text, or as a recogniser heard it, with its scores."""

    item: Item
    channel: str
    reply: str
    scores: Scores


@dataclass(frozen=True)
class Reading:
    """What is in the files of a benchmark."""

    items: tuple[Item, ...]
    left_out: tuple[str, ...] = ()  # parts that are there and are not asked, each with the reason


class AssistantBenchmark(Protocol):
    """A benchmark in its published files."""

    name: str

    def read(self, sounds: Path) -> Reading:
        """Its questions. Sound that lies inside other files is written to the folder `sounds`.

        Raises InputError if the files are missing or are not as they are published.
        """
        ...

    def derived(self, judged: Sequence[Judged]) -> list[Judged]:
        """Scores that follow from those of several items together."""
        ...
