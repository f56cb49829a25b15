"""What an aligner finds in an utterance, and what every aligner looks like from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from usdm.data.speech_corpus import Utterance
from usdm.types import AlignedWord


@dataclass(frozen=True)
class Aligned:
    """Where the words of an utterance are spoken; seconds from its start."""

    words: tuple[AlignedWord, ...]
    confidence: tuple[float, ...]  # 0..1 a word: geometric mean of its frames' probabilities; empty: not known
    phones: tuple[AlignedWord, ...] = ()  # empty: the aligner knows none
    unknown: tuple[str, ...] = ()  # characters or phones that the aligner has no symbol for
    interpolated: tuple[str, ...] = ()  # words that had nothing to align: times lie between their neighbours'
    pronunciation: tuple[str, ...] = ()  # phones as they are said; empty: the aligner knows no better than the corpus


@dataclass(frozen=True)
class Unaligned:
    """Why an utterance has no word times."""

    reason: str


class Aligner(Protocol):
    """Utterances with text in, one result for each, in order."""

    def __call__(self, utterances: Sequence[Utterance]) -> list[Aligned | Unaligned]: ...
