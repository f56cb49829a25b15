"""Where an utterance is cut into segments that are written as text or as units (USDM, section 3.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from usdm.types import InputError

_TRUNCATION = 2.0  # in deviations: a boundary stays within one mean segment length of its mean


def segment_boundaries(word_ends: NDArray[np.int32], segment_units: int, generator: np.random.Generator) -> list[int]:
    """Cut an utterance with (W,) word ends (in units) into about N // segment_units + 1 segments.

    The i-th of S - 1 inner boundaries is normal with mean i N / S and deviation N / (2 S), truncated to N / S on
    either side, and moves to the nearest boundary between two words. Boundaries that meet become one.

    Returns:
        Indices of words, from 0 to W: segment i holds words `result[i]` to `result[i + 1]`, at least one.

    Raises:
        InputError: `segment_units` is not positive.
    """
    if segment_units < 1:
        raise InputError(f"segment_units={segment_units}: a segment needs at least one unit")
    words, units = len(word_ends), int(word_ends[-1])
    segments = units // segment_units + 1
    if segments == 1 or words == 1:
        return [0, words]
    deviates = _truncated_normal(segments - 1, generator)
    points = (np.arange(1, segments) + 0.5 * deviates) * (units / segments)
    inner = sorted(set(_nearest(word_ends[:-1], points).tolist()))
    return [0, *inner, words]


def _truncated_normal(size: int, generator: np.random.Generator) -> NDArray[np.float64]:
    deviates = generator.standard_normal(size)
    while (outside := np.abs(deviates) > _TRUNCATION).any():
        deviates[outside] = generator.standard_normal(int(outside.sum()))
    return deviates


def _nearest(ends: NDArray[np.int32], points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of (W - 1,) inner word ends the nearest to each point, as the number of words before it."""
    right = np.searchsorted(ends, points).clip(max=len(ends) - 1)
    left = (right - 1).clip(min=0)
    nearer_left = points - ends[left] <= ends[right] - points
    return np.where(nearer_left, left, right) + 1
