"""Centroids from encoder features, and how well the units that they make tell phones apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from usdm.types import InputError


@dataclass(frozen=True)
class UnitQuality:
    """Units against the phones spoken at the same time (HuBERT, arXiv 2106.07447, section IV-C)."""

    phone_purity: float  # share of frames whose phone is the commonest one of their unit
    pnmi: float  # mutual information over the entropy of phones, 0..1
    used_units: int


def fit_centroids(features: Tensor, num_units: int, *, seed: int) -> Tensor:
    """(N, D) features -> (K, D) float32 centroids by mini-batch k-means (scikit-learn).

    Raises:
        InputError: fewer features than units.
    """
    from sklearn.cluster import MiniBatchKMeans

    if len(features) < num_units:
        raise InputError(f"{len(features)} frames cannot make {num_units} units: give more speech or fewer units.")
    kmeans = MiniBatchKMeans(
        num_units, batch_size=10_000, n_init=3, max_iter=30, reassignment_ratio=0.005, random_state=seed
    )
    kmeans.fit(features.numpy())
    return torch.from_numpy(kmeans.cluster_centers_).float()


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
