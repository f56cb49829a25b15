"""Universal domain adaptation: each term against its formula in plain loops, each method on a small shift."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from usdm.metrics.open_set import UNKNOWN, open_set_score, threshold_that_keeps
from usdm.training import domain_terms as terms
from usdm.training.classifier_objectives import ClassifierObjective, Turns, seeded_head
from usdm.training.domain_adaptation import (
    Adversarial,
    CalibratedEnsemble,
    NeighbourhoodClustering,
    OneAgainstAll,
    OptimalTransport,
    SourceOnly,
    WeightedAdversarial,
)
from usdm.types import InputError

B, C, K = 7, 4, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found: Tensor | float, expected: object) -> None:
    torch.testing.assert_close(
        torch.as_tensor(found).double(), torch.as_tensor(expected).double(), atol=1e-6, rtol=1e-6
    )


# The references: plain loops over numbers


def softmax(row: np.ndarray) -> np.ndarray:
    powers = [math.exp(value - max(row)) for value in row]
    return np.array([power / sum(powers) for power in powers])


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def row_entropy(beliefs: np.ndarray, floor: float = 0.0) -> float:
    return -sum(belief * math.log(belief + floor) for belief in beliefs)


def min_max(values: list[float]) -> list[float]:
    return [(value - min(values)) / (max(values) - min(values)) for value in values]


def test_weights_of_uan() -> None:
    source, target, source_domain, target_domain = drawn(B, C), drawn(B, C, seed=1), drawn(B), drawn(B, seed=1)
    raw = [
        row_entropy(softmax(row / 10)) / math.log(C) - sigmoid(d)
        for row, d in zip(source.numpy(), source_domain, strict=True)
    ]
    scaled = min_max(raw)
    expected = [value / (sum(scaled) / B) for value in scaled]
    raw = [
        sigmoid(d) - row_entropy(softmax(row)) / math.log(C)
        for row, d in zip(target.numpy(), target_domain, strict=True)
    ]
    scaled = min_max(raw)
    weights = terms.transfer_weights(source, target, source_domain, target_domain)
    close(weights.source, expected)
    close(weights.target, [value / (sum(scaled) / B) for value in scaled])
    loss = 0.0
    for logit, weight in zip(source_domain.tolist(), weights.source.tolist(), strict=True):
        loss += -weight * math.log(sigmoid(logit)) / B
    for logit, weight in zip(target_domain.tolist(), weights.target.tolist(), strict=True):
        loss += -weight * math.log(1 - sigmoid(logit)) / B
    close(terms.domain_loss(source_domain, target_domain, *weights), loss)


def test_gradients_come_back_negative_and_grow() -> None:
    features = drawn(B, 3).requires_grad_()
    terms.reverse_gradient(features, 0.3).sum().backward()
    close(features.grad if features.grad is not None else 0.0, torch.full((B, 3), -0.3))
    assert terms.ramp(0.0) == 0.0 and terms.ramp(0.1) == pytest.approx(0.4621172) and terms.ramp(1.0) > 0.999


def test_certainty_of_cmu() -> None:
    logits = drawn(3, B, C).numpy()
    doubt, dissent, confidence = [], [], []
    for turn in range(B):
        beliefs = [softmax(logits[head, turn]) for head in range(3)]
        doubt.append(sum(row_entropy(row) / math.log(C) for row in beliefs) / 3)
        dissent.append(sum(float(np.std([row[j] for row in beliefs], ddof=1)) for j in range(C)) / C)
        confidence.append(sum(max(row) for row in beliefs) / 3)
    expected = [
        (1 - one + 1 - other + sure) / 3
        for one, other, sure in zip(min_max(doubt), min_max(dissent), min_max(confidence), strict=True)
    ]
    close(terms.ensemble_certainty(torch.from_numpy(logits)), expected)


def test_losses_of_ovanet() -> None:
    logits, labels = drawn(B, 2, C), [0, 1, 2, 3, 0, 1, 2]
    positive = negative = entropy = 0.0
    for turn, label in enumerate(labels):
        pairs = [softmax(logits[turn, :, j].numpy()) for j in range(C)]
        positive += -math.log(pairs[label][1] + 1e-8) / B
        negative += max(-math.log(pairs[j][0] + 1e-8) for j in range(C) if j != label) / B
        entropy += sum(row_entropy(pair, 1e-8) for pair in pairs) / C / B
    found = terms.one_against_all_losses(logits, torch.tensor(labels))
    close(found[0], positive)
    close(found[1], negative)
    close(terms.one_against_all_entropy(logits), entropy)


def test_losses_of_dance() -> None:
    logits = drawn(B, C) * 2
    found = [row_entropy(softmax(row), 1e-5) for row in logits.numpy()]
    close(terms.neighbourhood_entropy(logits), sum(found) / B)
    close(terms.entropy_separation(logits, 0.7, 0.2), -sum(max(abs(each - 0.7), 0.2) for each in found) / B)


def test_assignments_of_uniot() -> None:
    scores = drawn(B, K)
    shares = [[math.exp(value / 0.05 - 60) for value in row] for row in scores.tolist()]
    for _ in range(3):
        for k in range(K):
            column = sum(row[k] for row in shares)
            for row in shares:
                row[k] /= column * K
        for row in shares:
            total = sum(row)
            row[:] = [value / (total * B) for value in row]
    expected = np.array(shares) * B
    close(terms.balanced_assignment(scores), expected)
    one, other = drawn(B, K, seed=1), drawn(B, K, seed=2)
    loss = 0.0
    for turn in range(B):
        for k in range(K):
            loss -= float(expected[turn, k]) * math.log(softmax(other[turn].numpy())[k]) / 2 / B
            loss -= float(expected[turn, K - 1 - k]) * math.log(softmax(one[turn].numpy())[k]) / 2 / B
    shares_of = torch.from_numpy(expected)
    close(terms.swapped_assignment_loss(shares_of, shares_of.flip(1), one, other), loss)


def test_transport_of_uniot() -> None:
    """Against the scaling iteration itself (Chizat et al. 2016), in loops."""
    similarities = drawn(B, C).tanh()
    class_shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    kernel = [[math.exp(value / 0.01) for value in row] for row in similarities.tolist()]
    u, v, power = [1.0] * B, [1.0] * C, 0.5 / (0.5 + 0.01)
    for _ in range(1000):
        u = [(1 / B / sum(kernel[i][j] * v[j] for j in range(C))) ** power for i in range(B)]
        v = [(class_shares[j].item() / sum(kernel[i][j] * u[i] for i in range(B))) ** power for j in range(C)]
    plan = np.array([[u[i] * kernel[i][j] * v[j] for j in range(C)] for i in range(B)])
    plan /= plan.sum()
    found = terms.transport(similarities, class_shares)
    torch.testing.assert_close(found, torch.from_numpy(plan), atol=2e-3, rtol=1e-2)  # it stops at a threshold
    detected = terms.detect_common(torch.from_numpy(plan))
    for i in range(B):
        best = max(range(C), key=lambda j: plan[i, j])
        assert detected.classes[i] == best
        assert detected.is_common[i] == (plan[i, best] > 1 / B and sum(plan[:, best]) >= 1 / C)


def test_filling_makes_near_and_far_turns_as_many() -> None:
    torch.manual_seed(0)
    prototypes, shares = torch.eye(3), torch.full((3,), 1 / 3)
    near = torch.eye(3)[[0, 1, 2, 0]]
    far = nn.functional.normalize(-torch.eye(3)[[0]], dim=1)
    filled = terms.adaptive_filling(torch.cat([near, far]), prototypes, shares, 0.7)
    assert len(filled) == 3 and ((filled @ prototypes.T).amax(1) <= 0.7 + 0.01).all()
    filled = terms.adaptive_filling(torch.cat([near[:1], far.repeat(4, 1)]), prototypes, shares, 0.7)
    torch.testing.assert_close(filled, near[:1].repeat(3, 1))


# The methods


METHODS: list[ClassifierObjective] = [
    SourceOnly(bottleneck=8),
    Adversarial(bottleneck=8, hidden=16),
    WeightedAdversarial(bottleneck=8, hidden=16),
    CalibratedEnsemble(bottleneck=8, hidden=16),
    OneAgainstAll(bottleneck=8),
    NeighbourhoodClustering(bottleneck=8),
    OptimalTransport(bottleneck=8, hidden=16, projection=8, queue=64, filling=32, clusters=6),
]


def shifted(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three classes; in the target the first two, moved, and an unknown one."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.eye(6)[:4] * 4
    labels = torch.arange(90) % 3
    source = centres[labels] + 0.5 * torch.randn(90, 6, generator=random)
    truth = torch.tensor([0, 1, -1])[torch.arange(90) % 3]
    moved = torch.where(truth[:, None] >= 0, centres[truth.clamp(0)], centres[3])
    target = moved + torch.tensor([0.0, 0.0, 0.0, 0.0, 0.7, -0.7]) + 0.5 * torch.randn(90, 6, generator=random)
    return source, labels, target, truth


def trained(objective: ClassifierObjective, steps: int = 120) -> nn.Module:
    source, labels, target, _ = shifted(0)
    head = seeded_head(objective, 6, 3, len(target), seed=0)
    optimizer = torch.optim.Adam(head.parameters(), 5e-3)
    for step in range(steps):
        torch.manual_seed(step)
        ours, theirs = torch.randperm(90)[:30], torch.randperm(90)[:30]
        one = Turns(source[ours], labels[ours], ours)
        other = Turns(target[theirs], torch.full((30,), -1), theirs)
        losses = objective.losses(head, one, other, step / steps)
        assert all(torch.isfinite(loss) for loss in losses.values())
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    return head.eval()


@pytest.mark.parametrize("objective", METHODS, ids=lambda each: type(each).__name__)
def test_a_method_learns_the_classes_and_decides_by_its_score(objective: ClassifierObjective) -> None:
    head = trained(objective)
    target, truth = shifted(1)[2:]
    with torch.no_grad():
        found, again = objective.predict(head, target), objective.predict(head, target)
    known = truth >= 0
    assert (found.logits.argmax(1) == truth)[known].float().mean() > 0.9
    torch.testing.assert_close(found.known, again.known)
    limits = {
        CalibratedEnsemble: 0.5,
        OneAgainstAll: 0.5,
        NeighbourhoodClustering: -math.log(3) / 2,
        OptimalTransport: 1.0,
    }
    assert (found.is_known is None) == (type(objective) not in limits)
    if found.is_known is not None:
        assert (found.known[found.is_known] >= limits[type(objective)]).all()
        assert type(objective) is OptimalTransport or (found.known[~found.is_known] <= limits[type(objective)]).all()


def test_memories_hold_the_targets_own_features() -> None:
    objective = NeighbourhoodClustering(bottleneck=None)
    head = seeded_head(objective, 6, 3, 90, seed=0)
    source, labels, target, _ = shifted(0)
    places = torch.tensor([3, 80, 7])
    turns = Turns(target[places], torch.full((3,), -1), places)
    objective.losses(head, Turns(source, labels, torch.arange(90)), turns, 0.5)
    memory = head.state_dict()["parts.memory"]
    torch.testing.assert_close(memory[places], nn.functional.normalize(target[places], dim=1))


def test_one_head_is_no_ensemble() -> None:
    with pytest.raises(InputError, match="objective.heads=1: give 2 or more"):
        CalibratedEnsemble(heads=1)


def test_a_queue_turns_round() -> None:
    objective = OptimalTransport(bottleneck=None, hidden=8, projection=4, queue=5)
    parts = objective.parts(6, 3, 0)
    rows = torch.arange(28.0).view(7, 4)
    parts.enqueue(rows[:3])  # type: ignore[operator]
    torch.testing.assert_close(parts.latest(5), rows[:3])  # type: ignore[operator]
    parts.enqueue(rows[3:])  # type: ignore[operator]
    torch.testing.assert_close(parts.latest(5), rows[2:])  # type: ignore[operator]
    torch.testing.assert_close(parts.latest(2), rows[5:])  # type: ignore[operator]


def test_a_method_without_a_target_says_so() -> None:
    source, labels, _, _ = shifted(0)
    objective = Adversarial(bottleneck=8, hidden=8)
    head = seeded_head(objective, 6, 3, 0, seed=0)
    with pytest.raises(InputError, match="Adversarial: needs unlabelled turns"):
        objective.losses(head, Turns(source, labels, torch.arange(90)), None, 0.0)


# Figures


def test_the_h_score_by_hand() -> None:
    truth = [0, 0, 0, 1, UNKNOWN, UNKNOWN]
    predicted = [0, 0, 1, 1, 0, 1]
    known = [0.9, 0.2, 0.8, 0.7, 0.7, 0.1]
    score = open_set_score(truth, predicted, [True, False, True, True, True, False], known)
    assert score.known == pytest.approx((1 / 3 + 1) / 2) and score.unknown == 0.5
    assert score.h_score == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert score.auroc == pytest.approx((2 + 1 + 2 + 1.5) / 8)
    assert threshold_that_keeps(list(range(101))) == pytest.approx(5)
    with pytest.raises(InputError, match="no turn is of unknown classes"):
        open_set_score([0, 1], [0, 1], [True, True], [1.0, 1.0])
