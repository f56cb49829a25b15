"""Terms of universal domain adaptation: pure functions of features and logits, each with its source.

The methods were published for pictures; "Universal Domain Adaptation for Robust Handling of Distributional Shifts in
NLP" (arXiv 2310.14849) took them to text. A domain is told by a logit, high for the source. B turns, C known classes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LOG_FLOOR = 1e-10  # added to what is divided by
OPEN_FLOOR, DANCE_FLOOR = 1e-8, 1e-5  # added to probabilities before their logarithm, as published


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor, coefficient: float) -> Tensor:
        context.coefficient = coefficient
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.coefficient * gradients[0], None


def reverse_gradient(features: Tensor, coefficient: float) -> Tensor:
    """The same features, whose gradient comes back negative (DANN, arXiv 1505.07818)."""
    reversed_: Tensor = _Reversal.apply(features, coefficient)
    return reversed_


def ramp(progress: float, gamma: float = 10.0) -> float:
    """From 0 to nearly 1 over a training (DANN)."""
    return 2 / (1 + math.exp(-gamma * progress)) - 1


def domain_loss(
    source: Tensor, target: Tensor, source_weights: Tensor | None = None, target_weights: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of domain logits (B,), weighted per turn; the sum of both domains' means."""
    parts = []
    for logits, truth, weights in ((source, 1.0, source_weights), (target, 0.0, target_weights)):
        each = functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth), reduction="none")
        parts.append((each if weights is None else each * weights).mean())
    return parts[0] + parts[1]


def entropy(logits: Tensor) -> Tensor:
    """(..., C) -> (...), nats."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


def share_of_entropy(logits: Tensor) -> Tensor:
    """The entropy over its largest value, log C."""
    return entropy(logits) / math.log(logits.shape[-1])


def rescaled(values: Tensor) -> Tensor:
    """To 0..1, the least and the largest."""
    return (values - values.min()) / (values.max() - values.min()).clamp_min(LOG_FLOOR)


class TransferWeights(NamedTuple):
    source: Tensor  # (B,)
    target: Tensor


def transfer_weights(
    source_logits: Tensor, target_logits: Tensor, source_domain: Tensor, target_domain: Tensor
) -> TransferWeights:
    """How likely a turn is of a class that both domains have; mean 1, without gradient (UAN, You et al. 2019).

    `source_domain`, `target_domain`: logits (B,) of a second discriminator, which no feature is trained by.
    """
    source = share_of_entropy(source_logits / 10) - source_domain.sigmoid()  # 10: the published class temperature
    target = target_domain.sigmoid() - share_of_entropy(target_logits)
    weights = [each / each.mean().clamp_min(LOG_FLOOR) for each in (rescaled(source), rescaled(target))]
    return TransferWeights(weights[0].detach(), weights[1].detach())


def ensemble_certainty(logits: Tensor) -> Tensor:
    """(heads, N, C) -> (N,) in 0..1: certain, of one mind and confident (CMU, Fu et al. 2020).

    Each of the three is rescaled over all N, so that N must be all that is judged.
    """
    beliefs = logits.softmax(-1)
    doubt = share_of_entropy(logits).mean(0)
    dissent = beliefs.std(0).mean(-1)
    confidence = beliefs.amax(-1).mean(0)
    return ((1 - rescaled(doubt)) + (1 - rescaled(dissent)) + rescaled(confidence)) / 3


def one_against_all_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2, C) logits of "is not, is" and labels (B,): of the true class, and of the hardest other one (OVANet)."""
    beliefs = logits.softmax(1)
    is_class = functional.one_hot(labels, logits.shape[2]).bool()
    positive = -(beliefs[:, 1] + OPEN_FLOOR).log()[is_class].mean()
    negative = (-(beliefs[:, 0] + OPEN_FLOOR).log()).masked_fill(is_class, 0.0).amax(1).mean()
    return positive, negative


def one_against_all_entropy(logits: Tensor) -> Tensor:
    """(B, 2, C) -> mean entropy of the C binary decisions (OVANet, arXiv 2104.03344)."""
    beliefs = logits.softmax(1)
    return -(beliefs * (beliefs + OPEN_FLOOR).log()).sum(1).mean()


def neighbourhood_entropy(similarities: Tensor) -> Tensor:
    """Mean entropy over prototypes, memory and batch together: near to one of them (DANCE, arXiv 2002.07953)."""
    beliefs = similarities.softmax(1)
    return -(beliefs * (beliefs + DANCE_FLOOR).log()).sum(1).mean()


def entropy_separation(logits: Tensor, threshold: float, margin: float) -> Tensor:
    """Away from the threshold, to either side; as published it has no gradient inside the margin (DANCE)."""
    beliefs = logits.softmax(1)
    found = -(beliefs * (beliefs + DANCE_FLOOR).log()).sum(1)
    return -(found - threshold).abs().clamp_min(margin).mean()


def balanced_assignment(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """(N, K) scores -> each row's shares of K clusters that all get as much (Sinkhorn-Knopp; SwAV, UniOT)."""
    shares = (scores / epsilon - (scores / epsilon).max()).exp()
    for _ in range(iterations):
        shares = shares / shares.sum(0, keepdim=True) / shares.shape[1]
        shares = shares / shares.sum(1, keepdim=True) / shares.shape[0]
    return shares * shares.shape[0]


def private_discovery_loss(shares: Tensor, other_shares: Tensor, logits: Tensor, other_logits: Tensor) -> Tensor:
    """A turn's clusters are its nearest neighbour's and the other way round, and its own ones (UniOT, 2210.17067).

    All (B, K): `shares` of balanced clusters, `logits` of the clusters; the "other" ones are the neighbours'.
    """
    own, others = logits.log_softmax(1), other_logits.log_softmax(1)
    swapped = -(other_shares * own + shares * others).sum(1).mean() / 2
    straight = -(shares * own).sum(1).mean()
    return (swapped + straight) / 2


def nearest_neighbours(features: Tensor, places: Tensor, queue: Tensor, queue_places: Tensor) -> Tensor:
    """(B, width): for each turn of a batch, the nearest other turn of the batch or of the queue (UniOT).

    `places`, `queue_places`: which turn each is. What the queue still has of the batch's own turns is older, and no
    neighbour. Features are of unit length; those of the batch keep their gradients.
    """
    others = ~torch.isin(queue_places, places)
    candidates = torch.cat([queue[others], features])
    itself = places[:, None] == torch.cat([queue_places[others], places])
    similarities = (features @ candidates.T).detach().masked_fill(itself, -1.0)
    return candidates[similarities.argmax(1)]


def transport(similarities: Tensor, class_shares: Tensor, tolerance: float) -> Tensor:
    """(N, C) unbalanced plan from N turns of equal mass to classes of `class_shares` (C,), its sum 1 (UniOT).

    It stops once an iteration moves the scalings by less than `tolerance`.

    Raises ModuleNotFoundError without the package POT.
    """
    from ot.unbalanced import sinkhorn_knopp_unbalanced  # type: ignore[import-untyped]

    count, classes = similarities.shape
    mass = torch.full((count,), 1 / count, dtype=torch.float64)
    plan = sinkhorn_knopp_unbalanced(
        mass,
        class_shares.double().cpu(),
        -similarities.detach().double().cpu(),
        reg=0.01,
        reg_m=0.5,
        reg_type="kl",
        c=torch.ones_like(similarities, dtype=torch.float64, device="cpu"),  # entropy, as published
        # It stops before it has forgotten where it began: here at POT 0.8.1's start, the version of the published code.
        warmstart=(mass.log(), torch.full((classes,), 1 / classes, dtype=torch.float64).log()),
        stopThr=tolerance,
    )
    return (plan / plan.sum()).to(similarities)


class Detected(NamedTuple):
    """Of N turns, by a plan."""

    classes: Tensor  # (N,) int64
    mass: Tensor  # (N,) times the number of turns in the plan: above 1 is more than a turn's even share
    is_common: Tensor  # (N,) bool


def detect_common(plan: Tensor) -> Detected:
    """Turns that send more than an even share to one class, if that class gets an even share at least (UniOT)."""
    mass, classes = plan.max(1)
    received = plan.sum(0) >= 1 / plan.shape[1]
    mass = mass * len(plan)
    return Detected(classes, mass, (mass > 1) & received[classes])


def adaptive_filling(
    features: Tensor, prototypes: Tensor, class_shares: Tensor, gamma: float, tolerance: float
) -> Tensor:
    """(M, width) turns that make up what lacks until as many are near a prototype as not (UniOT).

    Where near ones (similarity above `gamma`) lack, confident ones are repeated; where far ones lack, turns are
    moved halfway to their farthest prototype. Features and prototypes are of unit length.
    """
    similarities = features @ prototypes.T
    near = similarities.amax(1) > gamma
    lacking = int(near.sum()) - int((~near).sum())  # far ones; negative: near ones
    if lacking > 0:
        pool = functional.normalize((features + prototypes[similarities.argmin(1)]) / 2, dim=1)
    elif lacking < 0:
        plan = transport(similarities, class_shares, tolerance)
        pool = features[detect_common(plan).is_common]
    else:
        pool = features[:0]
    if not len(pool):
        return pool
    return pool[torch.randint(len(pool), (abs(lacking),), device=pool.device)]
