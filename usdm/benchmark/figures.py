"""Figures of a benchmark: each is measured under two procedures in pairs, and ends as a ratio with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Figure:
    """One quantity under the published procedure and under ours."""

    name: str
    unit: str
    reference: float  # median
    ours: float  # median
    ratio: float  # median over pairs of how many times better ours is: above 1 is better, whatever the unit
    low: float | None  # 95 % interval of the ratio; None of a single pair
    high: float | None
    pairs: int


def figure(
    name: str,
    unit: str,
    reference: Sequence[float],
    ours: Sequence[float],
    *,
    more_is_better: bool = False,
    seed: int = 0,
) -> Figure:
    """Raises ValueError if the two sides are not pairs, or if there is none."""
    if not reference or len(reference) != len(ours):
        raise ValueError(f"{name}: {len(reference)} and {len(ours)} measurements are no pairs; measure both each time")
    over, under = (ours, reference) if more_is_better else (reference, ours)
    ratios = np.asarray(over, dtype=float) / np.asarray(under, dtype=float)
    low, high = interval(ratios, seed)
    return Figure(name, unit, median(reference), median(ours), float(np.median(ratios)), low, high, len(ratios))


def interval(values: np.ndarray, seed: int = 0) -> tuple[float | None, float | None]:
    """95 % bootstrap interval of the median of (n,) values; (None, None) of one alone."""
    if len(values) < 2:
        return None, None
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[drawn], axis=1), PERCENTILES)
    return float(low), float(high)


def percentile(values: Sequence[float], percent: float) -> float:
    """Between two measurements it is interpolated."""
    return float(np.percentile(np.asarray(values, dtype=float), percent))
