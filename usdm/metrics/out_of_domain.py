"""Whether a turn belongs to what a classifier has learnt: scores, and figures of how well they tell.

Every score is the higher, the more a turn is inside. Shapes: N turns, C classes, W width of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from usdm.types import InputError

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
KEPT = 0.95  # of the turns inside, where a figure is about a threshold

Scorer = Callable[[Tensor, Tensor], Tensor]  # features (N, W), logits (N, C) -> scores (N,)


class Detector(Protocol):
    """A kind of score. It may learn from the turns that the classifier has learnt from."""

    def fit(self, features: Tensor, labels: Tensor) -> Scorer:
        """features: (N, W); labels: (N,) int64."""
        ...


@dataclass(frozen=True)
class MaxSoftmax:
    """The largest class probability (arXiv 1610.02136)."""

    def fit(self, features: Tensor, labels: Tensor) -> Scorer:
        return lambda _, logits: max_softmax(logits)


@dataclass(frozen=True)
class Energy:
    """The free energy, its sign turned (arXiv 2010.03759)."""

    temperature: float = 1.0

    def fit(self, features: Tensor, labels: Tensor) -> Scorer:
        return lambda _, logits: energy(logits, self.temperature)


@dataclass(frozen=True)
class Mahalanobis:
    """The distance to the nearest class mean, under the covariance that all classes share (arXiv 1807.03888)."""

    def fit(self, features: Tensor, labels: Tensor) -> Scorer:
        gaussians = fit_gaussians(features, labels)
        return lambda of, _: gaussians.scores(of)


@dataclass(frozen=True)
class Cosine:
    """The largest cosine to a turn that was learnt from."""

    def fit(self, features: Tensor, labels: Tensor) -> Scorer:
        return lambda of, _: largest_cosine(of, features)


def max_softmax(logits: Tensor) -> Tensor:
    """(N, C) -> (N,)"""
    return logits.softmax(1).max(1).values


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(N, C) -> (N,): T logsumexp(z / T)"""
    return temperature * (logits / temperature).logsumexp(1)


def largest_cosine(features: Tensor, known: Tensor) -> Tensor:
    """(N, W) features and (M, W) known ones -> (N,)"""
    ours, theirs = (torch.nn.functional.normalize(each, dim=1) for each in (features, known))
    return (ours @ theirs.T).max(1).values


@dataclass(frozen=True)
class Gaussians:
    """A normal distribution a class, of one covariance."""

    means: Tensor  # (C, W) float32
    precision: Tensor  # (W, W) float32

    def scores(self, features: Tensor) -> Tensor:
        """(N, W) -> (N,): minus the smallest squared distance."""
        root = torch.linalg.cholesky(self.precision.double())  # distances to the means are plain ones behind it
        away = torch.cdist(features.double().cpu() @ root, self.means.double() @ root)  # (N, C)
        return -away.min(1).values.square().float()


def fit_gaussians(features: Tensor, labels: Tensor) -> Gaussians:
    """(N, W) features of (N,) classes. The covariance is shrunk (Ledoit and Wolf 2004): there may be fewer turns than
    its width."""
    from sklearn.covariance import LedoitWolf

    classes = labels.unique()
    means = torch.stack([features[labels == each].double().mean(0) for each in classes])
    centred = features.double() - means[torch.searchsorted(classes, labels)]
    precision = LedoitWolf(assume_centered=True).fit(centred.cpu().numpy()).precision_
    return Gaussians(means.float().cpu(), torch.from_numpy(precision).float())


@dataclass(frozen=True)
class Separation:
    """How well a score tells turns inside from turns outside; each figure with its 95 % interval."""

    auroc: tuple[float, float, float]  # share of pairs in which the turn inside has the higher score
    fpr95: tuple[float, float, float]  # share of turns outside that pass where 95 % of those inside do
    aupr: tuple[float, float, float]  # average precision, turns outside to be found
    inside: int
    outside: int


def separation(inside: Sequence[float], outside: Sequence[float], seed: int) -> Separation:
    """Figures of two sets of scores; both are redrawn 1,000 times for the intervals.

    Raises InputError if one is empty, or a score is not finite.
    """
    ours, theirs = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if not len(ours) or not len(theirs):
        raise InputError(f"{len(ours)} turns inside, {len(theirs)} outside: give some of both")
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise InputError("a score is not finite: the classifier's weights are not, train it with a lower learning rate")
    random = np.random.default_rng(seed)
    drawn = [_figures(random.choice(ours, len(ours)), random.choice(theirs, len(theirs))) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, PERCENTILES, axis=0)
    values = zip(_figures(ours, theirs), low.tolist(), high.tolist(), strict=True)
    area, rate, precision = values
    return Separation(area, rate, precision, len(ours), len(theirs))


def auroc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Equal scores count half."""
    order = np.sort(outside)
    below = np.searchsorted(order, inside, "left")
    not_above = np.searchsorted(order, inside, "right")
    return float((below + not_above).mean() / 2 / len(outside))


def threshold_that_keeps(inside: NDArray[np.float64], kept: float = KEPT) -> float:
    """The highest score that at least this share of the turns inside reaches."""
    ranked = np.sort(inside)[::-1]
    return float(ranked[int(np.ceil(kept * len(ranked))) - 1])


def false_positive_rate(inside: NDArray[np.float64], outside: NDArray[np.float64], kept: float = KEPT) -> float:
    """Of the turns outside, under the threshold that keeps this share of those inside."""
    return float((outside >= threshold_that_keeps(inside, kept)).mean())


def average_precision(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Of finding the turns outside by their low scores; turns of one score are found together."""
    scores = np.concatenate([-outside, -inside])
    found = np.concatenate([np.ones(len(outside)), np.zeros(len(inside))])
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], found[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits = found.cumsum()[ends]
    recall_steps = np.diff(hits, prepend=0) / len(outside)
    return float((recall_steps * hits / (ends + 1)).sum())


def _figures(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> tuple[float, float, float]:
    return auroc(inside, outside), false_positive_rate(inside, outside), average_precision(inside, outside)
