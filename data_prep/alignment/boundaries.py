"""How far found word boundaries lie from known ones."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from usdm.types import AlignedWord

_WITHIN = (20, 50, 100)  # milliseconds


@dataclass(frozen=True)
class BoundaryError:
    """Absolute differences of word starts and ends, in milliseconds."""

    boundaries: int
    median: float
    mean: float
    within: dict[int, float]  # milliseconds -> share of boundaries at most so far off


def boundary_error(
    pairs: Iterable[tuple[Sequence[AlignedWord], Sequence[AlignedWord]]],
) -> BoundaryError | None:
    """Of pairs (found, known) with as many words each; None if there are none."""
    errors = BoundaryErrors()
    for found, known in pairs:
        errors.add(found, known)
    return errors.figures()


class BoundaryErrors:
    """Gathers the errors of many utterances, 4 bytes each."""

    def __init__(self) -> None:
        self._errors = array("f")

    def add(self, found: Sequence[AlignedWord], known: Sequence[AlignedWord]) -> None:
        """Of an utterance. They count if there are as many words on both sides."""
        if len(found) == len(known):
            for f, k in zip(found, known, strict=True):
                self._errors.extend((abs(f.start - k.start) * 1000, abs(f.end - k.end) * 1000))

    def figures(self) -> BoundaryError | None:
        """None if there are none."""
        if not self._errors:
            return None
        values = np.array(self._errors)
        within = {limit: float((values <= limit + 1e-3).mean()) for limit in _WITHIN}
        return BoundaryError(len(values), float(np.median(values)), float(values.mean(dtype=np.float64)), within)
