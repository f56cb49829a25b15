"""Universal domain adaptation: each loss against what the published code gives, each method on a small shift.

tests/references/universal_domain_adaptation.json says which function of which repository each number is of.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from usdm.metrics.open_set import UNKNOWN, open_set_score, threshold_that_keeps
from usdm.training import domain_terms as terms
from usdm.training.classifier_objectives import ClassifierObjective, Prediction, Turns, seeded_head
from usdm.training.domain_adaptation import (
    Adversarial,
    CalibratedEnsemble,
    NeighbourhoodClustering,
    OneAgainstAll,
    OptimalTransport,
    SourceOnly,
    UnitClassifier,
    WeightedAdversarial,
)
from usdm.types import InputError

STORED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "references" / "universal_domain_adaptation.json").read_text()
)


def numbers(values: Any) -> Tensor:
    """float64, as the published code was run; whole numbers stay so."""
    found = torch.tensor(values)
    return found.double() if found.is_floating_point() else found


def close(found: Tensor | float, expected: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(found).double(), numbers(expected).double(), atol=1e-6, rtol=1e-6)


# The published numbers


def adversarial_turns() -> tuple[Turns, Turns]:
    """Their features are logits: of the domain, of the domain again, of the four classes."""
    stored = STORED["adversarial_inputs"]
    labels = numbers(stored["labels"])
    source, target = numbers(stored["source"]), numbers(stored["target"])
    return Turns(source, labels, labels), Turns(target.requires_grad_(), labels, labels)


ADVERSARIAL_PARTS = {
    "domain": lambda features: features[:, :1],
    "separate": lambda features: features[:, 1:2],
    "classes": lambda features: features[:, 2:],
}


def test_dann_is_the_published_one() -> None:
    close(Adversarial().adapt(ADVERSARIAL_PARTS, *adversarial_turns(), 0.5)["domain"], STORED["dann"]["domain"])
    close(torch.tensor([terms.ramp(each) for each in STORED["dann"]["progress"]]), STORED["dann"]["ramp"])


def test_uan_is_the_published_one() -> None:
    source, target = adversarial_turns()
    classes, separate = ADVERSARIAL_PARTS["classes"], ADVERSARIAL_PARTS["separate"]
    logits = classes(source.features), classes(target.features)
    weights = terms.transfer_weights(*logits, *(separate(turns.features)[:, 0] for turns in (source, target)))
    close(weights.source, STORED["uan"]["source_weights"])
    close(weights.target, STORED["uan"]["target_weights"])
    found = WeightedAdversarial().adapt(ADVERSARIAL_PARTS, source, target, 0.5)
    close(found["domain"], STORED["uan"]["domain"])
    close(found["separate"], STORED["uan"]["separate"])
    assert found["domain"].requires_grad and not found["separate"].requires_grad  # the second looks on


def test_gradients_come_back_negative() -> None:
    features = torch.ones(2, 3).requires_grad_()
    terms.reverse_gradient(features, 0.3).sum().backward()
    assert features.grad is not None
    close(features.grad, [[-0.3] * 3] * 2)


def test_cmu_is_the_published_one() -> None:
    logits = numbers(STORED["cmu"]["logits"])
    close(terms.ensemble_certainty(logits), STORED["cmu"]["score"])
    parts = {"ensemble": lambda features: logits, "domain": ADVERSARIAL_PARTS["domain"]}
    found = CalibratedEnsemble().adapt(parts, *adversarial_turns(), 0.5)
    close(found["classes"], STORED["cmu"]["classes"])
    close(found["domain"], STORED["cmu"]["domain"])


def decided(prediction: Prediction) -> Tensor:
    """(N,) classes; one past the last is "unknown"."""
    assert prediction.is_known is not None
    return prediction.logits.argmax(1).where(prediction.is_known, prediction.logits.shape[1])


def test_ovanet_is_the_published_one() -> None:
    stored = STORED["ovanet"]
    features, labels, closed = (numbers(stored[name]) for name in ("features", "labels", "closed"))
    opened = UnitClassifier(5, 8, normalised=False).double()
    opened.weight.data = numbers(stored["opened"])
    parts = {"classes": lambda features: features @ closed.T, "open": opened}
    objective, turns = OneAgainstAll(), Turns(features, labels, labels)
    positive, negative = terms.one_against_all_losses(opened(features).view(len(labels), 2, 4), labels)
    close(positive, stored["positive"])
    close(negative, stored["negative"])
    found = objective.adapt(parts, turns, turns, 0.5)
    close(found["open"], 0.5 * (stored["positive"] + stored["negative"]))
    close(found["entropy"], 0.1 * stored["entropy"])
    assert decided(objective.judge(parts, features)).tolist() == stored["predictions"]


def test_dance_is_the_published_one() -> None:
    stored = STORED["dance"]
    features, places, logits = (numbers(stored[name]) for name in ("features", "places", "logits"))
    parts = SimpleNamespace(classes=lambda features: logits, memory=numbers(stored["memory"]))
    objective, turns = NeighbourhoodClustering(margin=0.25), Turns(features, places % 4, places)
    found = objective.adapt(parts, turns, turns, 0.5)
    close(found["neighbours"], stored["neighbours"])
    close(found["separation"], stored["separation"])
    close(parts.memory, stored["memory_after"])
    assert decided(objective.judge(parts, features)).tolist() == stored["predictions"]


UNIOT = OptimalTransport(bottleneck=None, weight=1.0, clusters=4, queue=12, projection=5)


def transport_head(class_shares: list[float]) -> Any:
    """With the stored prototypes and queue; turns are heard as points of unit length already."""
    stored = STORED["uniot"]
    parts: Any = UNIOT.parts(5, 3, 12)
    parts.projection = nn.Identity()
    parts.classes.weight.data = numbers(stored["prototypes"])
    parts.clusters.weight.data = numbers(stored["clusters"])
    parts.double()
    parts.class_shares.copy_(numbers(class_shares))
    parts.enqueue(numbers(stored["queue"]), numbers(stored["queue_places"]))
    drawn = {4: stored["private"]["drawn"], 12: stored["common"]["drawn"]}  # for the clusters, for the classes
    parts.drawn = lambda most: parts.queue[drawn[most]]
    return parts


def uniot_turns() -> tuple[Turns, Turns]:
    features, places = numbers(STORED["uniot"]["features"]), numbers(STORED["uniot"]["places"])
    return Turns(features, places % 3, places), Turns(features.clone().requires_grad_(), places, places)


def test_private_discovery_of_uniot_is_the_published_one() -> None:
    """An older copy of two turns of the batch is in the queue, and would be nearest."""
    stored, parts = STORED["uniot"]["private"], transport_head([1 / 3] * 3)
    source, target = uniot_turns()
    close(
        terms.nearest_neighbours(target.features, target.places, parts.queue, parts.queue_places).detach(),
        stored["neighbours"],
    )
    found = UNIOT.adapt(parts, source, target, 0.0)
    assert set(found) == {"classes", "private"}
    close(found["private"].detach(), stored["loss"])
    close(torch.autograd.grad(found["private"], target.features)[0], stored["gradient"])


def test_balanced_shares_of_uniot_are_the_published_ones() -> None:
    stored, parts = STORED["uniot"]["private"], transport_head([1 / 3] * 3)
    rows = [numbers(STORED["uniot"]["features"]), numbers(stored["neighbours"]), parts.drawn(4)]
    close(terms.balanced_assignment(parts.clusters(torch.cat(rows)).detach() * 0.1), stored["shares"])


def test_transport_of_uniot_is_the_published_one() -> None:
    """Where classes lie apart it stops after a few iterations, and where it began shows."""
    stored = STORED["uniot"]["transport"]
    close(terms.transport(numbers(stored["similarities"]), numbers(stored["class_shares"]), 1e-4), stored["plan"])


def test_common_detection_of_uniot_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = STORED["uniot"]["common"]
    monkeypatch.setattr(torch, "randint", lambda *_, **__: numbers(stored["filled"]))
    parts = transport_head(stored["class_shares"])
    close(UNIOT.adapt(parts, *uniot_turns(), UNIOT.common_from)["common"].detach(), stored["loss"])
    close(parts.class_shares, stored["class_shares_after"])
    plan = terms.transport(numbers(stored["similarities"]), numbers(stored["class_shares"]), 1e-4)
    detected = terms.detect_common(plan)
    assert detected.classes.where(detected.is_common, 3)[-6:].tolist() == stored["pseudo_labels"]


@pytest.mark.parametrize("case", STORED["uniot"]["filling"], ids=["near ones lack", "far ones lack"])
def test_filling_of_uniot_is_the_published_one(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randint", lambda *_, **__: numbers(case["filled"]))
    prototypes, shares = numbers(STORED["uniot"]["prototypes"]), numbers([0.5, 0.3, 0.2])
    filling = terms.adaptive_filling(numbers(case["features"]), prototypes, shares, 0.7, 1e-4)
    close(filling @ prototypes.T, case["similarities"])


def test_nothing_fills_up_what_is_even() -> None:
    features = torch.cat([torch.eye(3)[:2], -torch.eye(3)[:2]])
    assert terms.adaptive_filling(features, torch.eye(3), torch.full((3,), 1 / 3), 0.7, 1e-4).shape == (0, 3)


def test_uniot_predicts_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn's own mass decides; that its class gets an even share matters to pseudo-labels alone."""
    stored = STORED["uniot"]["prediction"]
    monkeypatch.setattr(torch, "randint", lambda *_, **__: numbers(stored["filled"]))
    parts = transport_head(stored["class_shares"])
    assert decided(UNIOT.judge(parts, numbers(stored["features"]))).tolist() == stored["labels"]
    assert stored["labels"] != stored["pseudo_labels"]


# The methods


METHODS: list[ClassifierObjective] = [
    SourceOnly(bottleneck=8),
    Adversarial(bottleneck=8, hidden=16),
    WeightedAdversarial(bottleneck=8, hidden=16),
    CalibratedEnsemble(bottleneck=8, hidden=16),
    OneAgainstAll(bottleneck=8),
    NeighbourhoodClustering(bottleneck=8),
    OptimalTransport(bottleneck=8, hidden=16, projection=8, queue=64, clusters=6),
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
    parts: Any = OptimalTransport(bottleneck=None, hidden=8, projection=4, queue=5).parts(6, 3, 90)
    rows, places = torch.arange(48.0).view(12, 4), torch.arange(12)
    assert parts.drawn(3).shape == (0, 4)
    parts.enqueue(rows[:3], places[:3])
    assert parts.held() == 3 and set(parts.drawn(50)[:, 0].tolist()) <= {0.0, 4.0, 8.0}
    parts.enqueue(rows[3:6], places[3:6])
    assert parts.queue_places.tolist() == [5, 1, 2, 3, 4] and parts.drawn(2).shape == (2, 4)
    parts.enqueue(rows[4:], places[4:])  # more than it holds: the latest
    assert sorted(parts.queue_places.tolist()) == [7, 8, 9, 10, 11]
    close(parts.queue, rows[parts.queue_places].tolist())


def test_a_queue_has_no_turn_of_a_small_target_twice() -> None:
    parts: Any = OptimalTransport(bottleneck=None, hidden=8, projection=4, queue=5).parts(6, 3, 4)
    assert parts.queue.shape == (4, 4)


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
