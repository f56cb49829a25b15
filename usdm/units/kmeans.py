"""Centroids from encoder features, and how well the units that they make tell phones apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from usdm.types import InputError
from usdm.units.centroids import nearest_centroid

REFINING_STEPS = 5  # of k-means from given centroids: more of them drift away
BATCH, EPOCHS = 10_000, 30  # of mini-batch k-means
REASSIGNED = 0.005  # a unit with less than this share of the commonest one's frames begins anew


@dataclass(frozen=True)
class UnitQuality:
    """Units against the phones spoken at the same time (HuBERT, arXiv 2106.07447, section IV-C)."""

    phone_purity: float  # share of frames whose phone is the commonest one of their unit
    pnmi: float  # mutual information over the entropy of phones, 0..1
    used_units: int


def fit_centroids(
    features: Tensor, num_units: int, *, seed: int, initial: Tensor | None = None, device: str = "cpu"
) -> Tensor:
    """(N, D) features -> (K, D) float32 centroids by k-means, all of them in main memory.

    Args:
        initial: (K, D) to start from, and to stay near: a few steps of plain k-means. None starts anew, in
            mini-batches.
        device: scikit-learn works on "cpu"; any other sees the features a batch at a time.

    Raises:
        InputError: fewer features than units.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(features) < num_units:
        raise InputError(f"{len(features)} frames cannot make {num_units} units: give more speech or fewer units.")
    if torch.device(device).type != "cpu":
        if initial is not None:
            return refined(features, initial, device)
        return mini_batch_kmeans(features, num_units, seed=seed, device=device)
    if initial is not None:
        near = KMeans(num_units, init=initial.numpy(), n_init=1, max_iter=REFINING_STEPS, random_state=seed)
        return torch.from_numpy(near.fit(features.numpy()).cluster_centers_).float()
    kmeans = MiniBatchKMeans(
        num_units, batch_size=BATCH, n_init=3, max_iter=EPOCHS, reassignment_ratio=REASSIGNED, random_state=seed
    )
    kmeans.fit(features.numpy())
    return torch.from_numpy(kmeans.cluster_centers_).float()


def mini_batch_kmeans(features: Tensor, num_units: int, *, seed: int, device: str) -> Tensor:
    """(N, D) -> (K, D): each centroid is the mean of all frames that it met (Sculley, WWW 2010)."""
    random = torch.Generator().manual_seed(seed)
    sample = features[torch.randperm(len(features), generator=random)[: max(3 * BATCH, 3 * num_units)]]
    trials = 2 + int(math.log(num_units))
    centroids = _plus_plus(sample.to(device), torch.rand(num_units, trials, generator=random).to(device))
    counts = torch.zeros(num_units, device=device)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(features), generator=random).split(BATCH):
            sums, met = _sums(features[rows].to(device), centroids)
            counts += met
            centroids += (sums - met[:, None] * centroids) / counts.clamp(min=1)[:, None]
        if epoch < EPOCHS // 2:  # those that begin anew have the other half to settle
            lonely = (counts < REASSIGNED * counts.max())[:, None]
            anew = features[torch.randint(len(features), (num_units,), generator=random)].to(device)
            centroids = torch.where(lonely, anew, centroids)
            counts = torch.where(lonely[:, 0], 0.0, counts)
    return centroids.cpu()


def refined(features: Tensor, initial: Tensor, device: str) -> Tensor:
    """(N, D), (K, D) -> (K, D): a few steps of plain k-means; a centroid that no frame is near stays."""
    centroids = initial.to(device)
    for _ in range(REFINING_STEPS):
        sums, counts = torch.zeros_like(centroids), torch.zeros(len(centroids), device=device)
        for rows in features.split(BATCH):
            for whole, part in zip((sums, counts), _sums(rows.to(device), centroids), strict=True):
                whole += part
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
    return centroids.cpu()


def _sums(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D), (K, D) -> (K, D) sums of the rows that are nearest to each centroid, and (K,) their numbers."""
    units = nearest_centroid(rows, centroids)
    counts = torch.zeros(len(centroids), device=rows.device).index_add_(0, units, torch.ones_like(rows[:, 0]))
    return torch.zeros_like(centroids).index_add_(0, units, rows), counts


def _plus_plus(sample: Tensor, draws: Tensor) -> Tensor:
    """Centroids far from each other, by greedy k-means++ (Arthur and Vassilvitskii, 2007; as in scikit-learn).

    Args:
        sample: (S, D).
        draws: (K, T) in [0, 1): of T candidates, drawn by their squared distance to the centroids before, the best is
            taken.

    Returns:
        (K, D)
    """
    squares = sample.square().sum(1)
    nearest = torch.ones_like(squares)  # squared distances; the first candidates are drawn evenly
    chosen = []
    for number, draw in enumerate(draws):
        reach = nearest.cumsum(0)
        candidates = sample[torch.searchsorted(reach, draw * reach[-1]).clamp(max=len(sample) - 1)]
        distances = (squares[:, None] - 2 * sample @ candidates.T + candidates.square().sum(1)).clamp(min=0)
        if number:
            distances = torch.minimum(distances, nearest[:, None])
        best = distances.sum(0).argmin(0, keepdim=True)  # a tensor of one: a GPU need not be waited for
        nearest = distances.index_select(1, best)[:, 0]
        chosen.append(candidates.index_select(0, best))
    return torch.cat(chosen)


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
