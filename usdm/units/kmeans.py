"""Centroids from encoder features, and how well the units that they make tell phones apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from usdm.types import InputError

REFINING_STEPS = 5  # of k-means from given centroids: more of them drift away


@dataclass(frozen=True)
class UnitQuality:
    """Units against the phones spoken at the same time (HuBERT, arXiv 2106.07447, section IV-C)."""

    phone_purity: float  # share of frames whose phone is the commonest one of their unit
    pnmi: float  # mutual information over the entropy of phones, 0..1
    used_units: int


def fit_centroids(features: Tensor, num_units: int, *, seed: int, initial: Tensor | None = None) -> Tensor:
    """(N, D) features -> (K, D) float32 centroids by k-means (scikit-learn).

    Args:
        initial: (K, D) to start from, and to stay near: a few steps of plain k-means. None starts anew, in
            mini-batches.

    Raises:
        InputError: fewer features than units.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(features) < num_units:
        raise InputError(f"{len(features)} frames cannot make {num_units} units: give more speech or fewer units.")
    if initial is not None:
        near = KMeans(num_units, init=initial.numpy(), n_init=1, max_iter=REFINING_STEPS, random_state=seed)
        return torch.from_numpy(near.fit(features.numpy()).cluster_centers_).float()
    kmeans = MiniBatchKMeans(
        num_units, batch_size=10_000, n_init=3, max_iter=30, reassignment_ratio=0.005, random_state=seed
    )
    kmeans.fit(features.numpy())
    return torch.from_numpy(kmeans.cluster_centers_).float()


def class_means(features: Tensor, units: Tensor, num_units: int, *, seed: int) -> Tensor:
    """(N, D) features of frames that have (N,) units -> (K, D) mean of each unit; a random frame for one without."""
    random = torch.randint(len(features), (num_units,), generator=torch.Generator().manual_seed(seed))
    sums = torch.zeros(num_units, features.shape[1]).index_add_(0, units, features)
    counts = torch.bincount(units, minlength=num_units)[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), features[random])


def unit_quality(units: Tensor, phones: Tensor) -> UnitQuality:
    """(N,) units and the (N,) phones of the same frames."""
    joint = torch.zeros(int(units.max()) + 1, int(phones.max()) + 1, dtype=torch.float64)
    joint.index_put_((units, phones), torch.ones(len(units), dtype=torch.float64), accumulate=True)
    joint /= joint.sum()
    unit_share, phone_share = joint.sum(1), joint.sum(0)
    independent = unit_share[:, None] * phone_share
    seen = joint > 0
    information = (joint[seen] * (joint[seen] / independent[seen]).log()).sum()
    entropy = -(phone_share[phone_share > 0] * phone_share[phone_share > 0].log()).sum()
    return UnitQuality(
        phone_purity=float(joint.max(1).values.sum()),
        pnmi=float(information / entropy),
        used_units=int((unit_share > 0).sum()),
    )
