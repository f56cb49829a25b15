"""Word error rates of a corpus, with the uncertainty that comes from the choice of its dialogs.

Bootstrap over dialogs (Bisani and Ney 2004): whole dialogs are drawn with replacement, since turns of one dialog
share their topic and voice; the 95 % interval lies between the 2.5 and 97.5 percentiles of the redrawn rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from usdm.evaluation.text import WordErrors

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)


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


def word_error_rate(errors: Sequence[WordErrors], groups: Sequence[str], seed: int) -> WordErrorRate | None:
    """The rate over all items; `groups` names each item's dialog. None when there is no reference word."""
    total = sum(errors, WordErrors())
    if total.words == 0:
        return None
    low, high = np.percentile(_redrawn_rates(errors, groups, seed), PERCENTILES)
    return WordErrorRate(total.errors / total.words, float(low), float(high), total, len(errors))


def word_error_gap(
    errors: Sequence[WordErrors], baseline: Sequence[WordErrors], groups: Sequence[str], seed: int
) -> WordErrorGap | None:
    """Rate of `errors` minus rate of `baseline`, item by item of the same `groups`. None without words."""
    total, base = sum(errors, WordErrors()), sum(baseline, WordErrors())
    if total.words == 0 or base.words == 0:
        return None
    redrawn = _redrawn_rates(errors, groups, seed) - _redrawn_rates(baseline, groups, seed)
    low, high = np.percentile(redrawn, PERCENTILES)
    return WordErrorGap(total.errors / total.words - base.errors / base.words, float(low), float(high))


def _redrawn_rates(errors: Sequence[WordErrors], groups: Sequence[str], seed: int) -> np.ndarray:
    """(RESAMPLES,) rates; the same seed and number of groups draw the same groups."""
    place = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(place), 2))
    for error, group in zip(errors, groups, strict=True):
        sums[place[group]] += error.errors, error.words
    drawn = np.random.default_rng(seed).integers(len(place), size=(RESAMPLES, len(place)))
    redrawn = sums[drawn].sum(axis=1)  # (RESAMPLES, 2)
    return redrawn[:, 0] / np.maximum(redrawn[:, 1], 1)
