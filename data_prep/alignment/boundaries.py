"""How far found word boundaries lie from known ones."""

from __future__ import annotations

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
    errors = [
        abs(found_time - known_time) * 1000
        for found, known in pairs
        if len(found) == len(known)
        for f, k in zip(found, known, strict=True)
        for found_time, known_time in ((f.start, k.start), (f.end, k.end))
    ]
    if not errors:
        return None
    values = np.asarray(errors)
    within = {limit: float((values <= limit + 1e-6).mean()) for limit in _WITHIN}
    return BoundaryError(len(values), float(np.median(values)), float(values.mean()), within)
