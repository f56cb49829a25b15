"""User turns put together from pieces of several recordings, cut between words.

A language model that reads few texts often comes to guess a sentence from its beginning instead of hearing it out.
What the pieces say together was never said, so it must be heard. Source: aligned data augmentation (Lam et al.,
Interspeech 2021), on units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from usdm.types import InputError


class Spoken(Protocol):
    """A turn; without word times it can only be taken whole."""

    @property
    def text(self) -> str: ...

    @property
    def units(self) -> NDArray[np.uint16]: ...  # (U,)

    @property
    def words(self) -> tuple[str, ...]: ...

    @property
    def word_ends(self) -> NDArray[np.int32]: ...  # in units


@dataclass(frozen=True)
class SpliceAugmentation:
    """How turns are put together.

    Raises:
        InputError: a share outside 0..1, or a number below 1.
    """

    share: float  # of training sequences that are such a turn, to be transcribed only
    most_pieces: int = 3
    most_words: int = 6  # in a piece that is cut
    whole_share: float = 0.0  # of pieces that are all of a turn
    alone_share: float = 0.0  # of pieces from turns that stand alone, such as recordings that no dialog is made of

    def __post_init__(self) -> None:
        for name in ("share", "whole_share", "alone_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: give a share from 0 to 1")
        for name in ("most_pieces", "most_words"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give 1 or more")

    def splice(
        self, answered: Sequence[Spoken], alone: Sequence[Spoken], random: np.random.Generator
    ) -> tuple[NDArray[np.int64], str]:
        """Pieces of random turns, `answered` in a dialog or standing `alone` -> (U,) units and what they say."""
        pieces = []
        for _ in range(random.integers(1, self.most_pieces + 1)):
            turns = alone if random.random() < self.alone_share else answered
            turn = turns[int(random.integers(len(turns)))]
            if not turn.words or random.random() < self.whole_share:
                pieces.append((turn.units, turn.text))
                continue
            count = min(len(turn.words), int(random.integers(1, self.most_words + 1)))
            first = int(random.integers(len(turn.words) - count + 1))
            pieces.append(_piece(turn, first, first + count))
        return np.concatenate([units for units, _ in pieces]).astype(np.int64), " ".join(text for _, text in pieces)


def _piece(turn: Spoken, first: int, last: int) -> tuple[NDArray[np.uint16], str]:
    """Words `first` to `last`, as they are written where the text has one token a word."""
    start = int(turn.word_ends[first - 1]) if first else 0
    written = turn.text.split()
    tokens = written if len(written) == len(turn.words) else list(turn.words)
    return turn.units[start : int(turn.word_ends[last - 1])], " ".join(tokens[first:last])
