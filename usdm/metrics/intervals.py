"""Word error rates and means of a corpus, with the uncertainty that comes from the choice of its dialogs.

Bootstrap over dialogs (Bisani and Ney 2004): whole dialogs are drawn with replacement, since turns of one dialog
share their topic and voice; the 95 % interval lies between the 2.5 and 97.5 percentiles of the redrawn rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from usdm.metrics.text import WordErrors

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
Judged = tuple[str, WordErrors]  # an item's dialog, and the errors made on it


@dataclass(frozen=True)
class WordErrorRate:
    """Errors per reference word over a corpus (counts are summed first), as a fraction."""

    rate: float
    low: float  # 95 % interval
    high: float
    counts: WordErrors
    items: int


@dataclass(frozen=True)
class WordErrorGap:
    """How much higher one word error rate is than another over the same items, as a fraction."""

    gap: float
    low: float  # 95 % interval, of the pairs redrawn together
    high: float


@dataclass(frozen=True)
class Mean:
    """One figure over items."""

    mean: float
    low: float  # 95 % interval
    high: float
    items: int


@dataclass(frozen=True)
class MeanGap:
    """A mean difference over the same items."""

    gap: float
    low: float  # 95 % interval
    high: float


def word_error_rate(judged: Sequence[Judged], seed: int) -> WordErrorRate | None:
    """The rate over all items; None when there is no reference word."""
    total = _total(judged)
    if total.words == 0:
        return None
    low, high = np.percentile(_redrawn_rates(judged, seed), PERCENTILES)
    return WordErrorRate(total.errors / total.words, float(low), float(high), total, len(judged))


def word_error_gap(judged: Sequence[Judged], baseline: Sequence[Judged], seed: int) -> WordErrorGap | None:
    """Rate of `judged` minus rate of `baseline`, both of the same items in order. None without words.

    Raises ValueError if the items' dialogs differ.
    """
    if [dialog for dialog, _ in judged] != [dialog for dialog, _ in baseline]:
        raise ValueError("a gap needs both sides of the same items, but their dialogs differ: pair them up")
    total, base = _total(judged), _total(baseline)
    if total.words == 0 or base.words == 0:
        return None
    redrawn = _redrawn_rates(judged, seed) - _redrawn_rates(baseline, seed)
    low, high = np.percentile(redrawn, PERCENTILES)
    return WordErrorGap(total.errors / total.words - base.errors / base.words, float(low), float(high))


def mean_of(values: Sequence[float], dialogs: Sequence[str], seed: int) -> Mean | None:
    """The mean of one value an item; None without items. Raises ValueError if the lengths differ."""
    if not values:
        return None
    above_zero = mean_gap(values, [0.0] * len(values), dialogs, seed)
    return Mean(above_zero.gap, above_zero.low, above_zero.high, len(values))


def mean_gap(values: Sequence[float], baseline: Sequence[float], dialogs: Sequence[str], seed: int) -> MeanGap:
    """Mean of `values` minus mean of `baseline` over the same items, whole dialogs redrawn together."""
    place = {dialog: index for index, dialog in enumerate(dict.fromkeys(dialogs))}
    sums = np.zeros((len(place), 2))
    for value, base, dialog in zip(values, baseline, dialogs, strict=True):
        sums[place[dialog]] += value - base, 1
    drawn = sums[np.random.default_rng(seed).integers(len(place), size=(RESAMPLES, len(place)))].sum(axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], PERCENTILES)
    total = sums.sum(axis=0)
    return MeanGap(float(total[0] / total[1]), float(low), float(high))


def _total(judged: Sequence[Judged]) -> WordErrors:
    return sum((errors for _, errors in judged), WordErrors())


def _redrawn_rates(judged: Sequence[Judged], seed: int) -> np.ndarray:
    """(RESAMPLES,) rates; the same seed and dialogs draw the same dialogs."""
    place = {dialog: index for index, dialog in enumerate(dict.fromkeys(dialog for dialog, _ in judged))}
    sums = np.zeros((len(place), 2))
    for dialog, errors in judged:
        sums[place[dialog]] += errors.errors, errors.words
    drawn = np.random.default_rng(seed).integers(len(place), size=(RESAMPLES, len(place)))
    redrawn = sums[drawn].sum(axis=1)  # (RESAMPLES, 2)
    return redrawn[:, 0] / np.maximum(redrawn[:, 1], 1)
