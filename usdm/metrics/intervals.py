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
Counted = tuple[str, tuple[float, float]]  # an item's cluster, and a part of a whole


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


def ratio_of(items: Sequence[Counted], seed: int) -> tuple[float, float, float] | None:
    """Sum of parts over sum of wholes, with its interval; None where the wholes are nothing."""
    part, whole = _sums(items)
    if whole == 0:
        return None
    low, high = np.percentile(_redrawn(items, seed), PERCENTILES)
    return part / whole, float(low), float(high)


def ratio_gap(ours: Sequence[Counted], theirs: Sequence[Counted], seed: int) -> tuple[float, float, float] | None:
    """Ratio of `ours` minus ratio of `theirs`, both of the same items in order. None where a whole is nothing.

    Raises ValueError if the items' clusters differ.
    """
    if [cluster for cluster, _ in ours] != [cluster for cluster, _ in theirs]:
        raise ValueError("a gap needs both sides of the same items, but their dialogs differ: pair them up")
    (our_part, our_whole), (their_part, their_whole) = _sums(ours), _sums(theirs)
    if our_whole == 0 or their_whole == 0:
        return None
    low, high = np.percentile(_redrawn(ours, seed) - _redrawn(theirs, seed), PERCENTILES)
    return our_part / our_whole - their_part / their_whole, float(low), float(high)


def word_error_rate(judged: Sequence[Judged], seed: int) -> WordErrorRate | None:
    """The rate over all items; None when there is no reference word."""
    found = ratio_of(_counted(judged), seed)
    total = sum((errors for _, errors in judged), WordErrors())
    return None if found is None else WordErrorRate(*found, total, len(judged))


def word_error_gap(judged: Sequence[Judged], baseline: Sequence[Judged], seed: int) -> WordErrorGap | None:
    """Rate of `judged` minus rate of `baseline`, both of the same items in order. None without words.

    Raises ValueError if the items' dialogs differ.
    """
    found = ratio_gap(_counted(judged), _counted(baseline), seed)
    return None if found is None else WordErrorGap(*found)


def mean_of(values: Sequence[float], dialogs: Sequence[str], seed: int) -> Mean | None:
    """The mean of one value an item; None without items. Raises ValueError if the lengths differ."""
    found = ratio_of([(dialog, (value, 1.0)) for dialog, value in zip(dialogs, values, strict=True)], seed)
    return None if found is None else Mean(*found, len(values))


def mean_gap(values: Sequence[float], baseline: Sequence[float], dialogs: Sequence[str], seed: int) -> MeanGap:
    """Mean of `values` minus mean of `baseline` over the same items, whole dialogs redrawn together."""
    ours, theirs = ([(d, (v, 1.0)) for v, d in zip(side, dialogs, strict=True)] for side in (values, baseline))
    found = ratio_gap(ours, theirs, seed)
    if found is None:
        raise ValueError("no values given: the mean of none does not exist")
    return MeanGap(*found)


def _counted(judged: Sequence[Judged]) -> list[Counted]:
    return [(dialog, (errors.errors, errors.words)) for dialog, errors in judged]


def _sums(items: Sequence[Counted]) -> tuple[float, float]:
    return sum(part for _, (part, _) in items), sum(whole for _, (_, whole) in items)


def _redrawn(items: Sequence[Counted], seed: int) -> np.ndarray:
    """(RESAMPLES,) ratios; the same seed and clusters draw the same clusters."""
    place = {cluster: index for index, cluster in enumerate(dict.fromkeys(cluster for cluster, _ in items))}
    sums = np.zeros((len(place), 2))
    for cluster, counts in items:
        sums[place[cluster]] += counts
    drawn = np.random.default_rng(seed).integers(len(place), size=(RESAMPLES, len(place)))
    redrawn = sums[drawn].sum(axis=1)  # (RESAMPLES, 2)
    return redrawn[:, 0] / np.where(redrawn[:, 1] > 0, redrawn[:, 1], 1)
