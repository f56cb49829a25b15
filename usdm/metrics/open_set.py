"""How well a classifier names known classes and calls the others unknown, in one number.

H-score: Fu et al. (CMU, ECCV 2020), as in universal domain adaptation for text (arXiv 2310.14849).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usdm.types import InputError

UNKNOWN = -1


@dataclass(frozen=True)
class OpenSetScore:
    """Fractions."""

    h_score: float  # harmonic mean of the next two
    known: float  # accuracy over the known classes that are there, each counting the same
    unknown: float  # share of the unknown that is called so
    auroc: float  # how often a known turn ranks above an unknown one; ties count half


def open_set_score(
    truth: Sequence[int], predicted: Sequence[int], is_known: Sequence[bool], known_scores: Sequence[float]
) -> OpenSetScore:
    """Of N turns. `truth`, `predicted`: classes, in truth UNKNOWN where it is none; `known_scores`: higher is surer.

    Raises:
        InputError: there is no known turn, or no unknown one.
    """
    true, given = np.asarray(truth), np.where(np.asarray(is_known, bool), np.asarray(predicted), UNKNOWN)
    of_known = true != UNKNOWN
    if not of_known.any() or of_known.all():
        lacking = "unknown" if of_known.any() else "known"
        raise InputError(f"no turn is of {lacking} classes: an open-set score needs both, check the labels")
    known = float(np.mean([(given[true == each] == each).mean() for each in np.unique(true[of_known])]))
    unknown = float((given[~of_known] == UNKNOWN).mean())
    h_score = 2 * known * unknown / (known + unknown) if known + unknown else 0.0
    scores = np.asarray(known_scores, float)
    return OpenSetScore(h_score, known, unknown, _rank(scores[of_known], scores[~of_known]))


def threshold_that_keeps(scores: Sequence[float], share: float = 0.95) -> float:
    """So that this share of known turns, which were not learnt from, lies at or above it."""
    return float(np.quantile(np.asarray(scores, float), 1 - share))


def _rank(above: NDArray[np.float64], below: NDArray[np.float64]) -> float:
    less, equal = (above[:, None] > below).mean(), (above[:, None] == below).mean()
    return float(less + equal / 2)
