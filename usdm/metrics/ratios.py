"""Figures that are a sum over a sum: means, rates, error counts over words; with their interval."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from usdm.metrics.intervals import PERCENTILES, RESAMPLES


@dataclass(frozen=True)
class Ratio:
    value: float
    low: float  # 95 %, bootstrap over items, or over clusters of them
    high: float
    items: int


def ratio_of_sums(
    values: Sequence[float], weights: Sequence[float], seed: int, clusters: Sequence[Hashable] | None = None
) -> Ratio | None:
    """Sum of values over sum of weights; with weights of 1 the mean. None where the weights sum to nothing.

    `clusters`: one name an item; items of one cluster are redrawn together. None: each is drawn alone.
    """
    names = range(len(values)) if clusters is None else clusters
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    sums = np.zeros((len(place), 2))
    for name, value, weight in zip(names, values, weights, strict=True):
        sums[place[name]] += value, weight
    total = sums.sum(axis=0)
    if total[1] == 0:
        return None
    random = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, 2))
    for number in range(RESAMPLES):  # one at a time: thousands of items a thousand times would fill the memory
        drawn[number] = sums[random.integers(len(sums), size=len(sums))].sum(axis=0)
    drawn = drawn[drawn[:, 1] != 0]
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], PERCENTILES)
    return Ratio(float(total[0] / total[1]), float(low), float(high), len(values))
