"""Universal domain adaptation: labelled turns of a source, unlabelled ones of a target, some of classes never seen.

Six methods as "Universal Domain Adaptation for Robust Handling of Distributional Shifts in NLP" (arXiv 2310.14849)
compares them, as objectives of the turn classifier. Defaults are that paper's. `usdm.training.domain_terms` has each
term; `CrossEntropy` is the baseline that sees no target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from usdm.training import domain_terms as terms
from usdm.training.classifier_objectives import ClassifierObjective, Prediction, Turns
from usdm.types import InputError

SMALLEST_MASS = 1e-30  # of a plan, before its logarithm
TRAINING_TOLERANCE, JUDGED_TOLERANCE = 1e-4, 1e-6  # where the transport stops, as published


def discriminator(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Features (B, width) -> domain logits (B, 1)."""
    layers: list[nn.Module] = []
    for size in (width, hidden):
        layers += [nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, 1))


def _domain(parts: Any, turns: Turns, progress: float) -> Tensor:
    """(B,) logits of the discriminator, which the features learn against."""
    logits: Tensor = parts["domain"](terms.reverse_gradient(turns.features, terms.ramp(progress)))
    return logits.squeeze(1)


class UnitClassifier(nn.Module):
    """Cosines with prototypes of unit length, over a temperature; features keep their length without `normalised`."""

    def __init__(self, width: int, outputs: int, temperature: float = 1.0, normalised: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, width) / math.sqrt(width))
        self.temperature, self.normalised = temperature, normalised

    def prototypes(self) -> Tensor:
        """(outputs, width)."""
        return functional.normalize(self.weight, dim=1)

    def forward(self, features: Tensor) -> Tensor:
        features = functional.normalize(features, dim=1) if self.normalised else features
        return features @ self.prototypes().T / self.temperature


class _Head(nn.Module):
    """A layer that learns even where the backbone is frozen, and a method's own parts behind it."""

    def __init__(self, layer: nn.Module, parts: nn.Module) -> None:
        super().__init__()
        self.layer, self.parts = layer, parts


@dataclass(frozen=True)
class DomainAdaptation(ClassifierObjective):
    """What the methods share; alone it learns from the source.

    A frozen backbone cannot be moved towards a target, so that a layer of its own is.
    """

    bottleneck: int | None = 256  # width of a linear layer before all else; None: features as they are

    def head(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        if self.bottleneck is None:
            return _Head(nn.Identity(), self.parts(width, num_classes, num_target))
        layer = nn.Linear(width, self.bottleneck)
        return _Head(layer, self.parts(self.bottleneck, num_classes, num_target))

    def losses(self, head: Any, source: Turns, target: Turns | None, progress: float) -> Mapping[str, Tensor]:
        ours = source._replace(features=head.layer(source.features))
        theirs = None if target is None else target._replace(features=head.layer(target.features))
        found = self.loss_terms(head.parts, ours, theirs, progress)
        return {"loss": torch.stack(list(found.values())).sum(), **found}

    def predict(self, head: Any, features: Tensor) -> Prediction:
        return self.judge(head.parts, head.layer(features))

    def parts(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        """What stands behind the layer."""
        raise NotImplementedError(f"{type(self).__name__} has no parts")

    def loss_terms(self, parts: Any, source: Turns, target: Turns | None, progress: float) -> dict[str, Tensor]:
        """Of the loss, each with its weight."""
        raise NotImplementedError(f"{type(self).__name__} has no terms")

    def judge(self, parts: Any, features: Tensor) -> Prediction:
        """As `predict`, of what the layer gives."""
        raise NotImplementedError(f"{type(self).__name__} does not judge")


@dataclass(frozen=True)
class SourceOnly(DomainAdaptation):
    """The baseline: the same layers, and labelled turns alone."""

    def parts(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        return nn.Linear(width, num_classes)

    def loss_terms(self, parts: Any, source: Turns, target: Turns | None, progress: float) -> dict[str, Tensor]:
        return {"classes": functional.cross_entropy(parts(source.features), source.labels)}

    def judge(self, parts: Any, features: Tensor) -> Prediction:
        logits = parts(features)
        return Prediction(logits, logits.softmax(1).amax(1))


@dataclass(frozen=True)
class _WithTarget(DomainAdaptation):
    needs_target: ClassVar[bool] = True

    def loss_terms(self, parts: Any, source: Turns, target: Turns | None, progress: float) -> dict[str, Tensor]:
        if target is None:
            raise InputError(f"objective={type(self).__name__}: needs unlabelled turns, give target=[FOLDER]")
        return self.adapt(parts, source, target, progress)

    def adapt(self, parts: Any, source: Turns, target: Turns, progress: float) -> dict[str, Tensor]:
        """The terms, with a target."""
        raise NotImplementedError(f"{type(self).__name__} has no terms")


@dataclass(frozen=True)
class Adversarial(_WithTarget):
    """DANN (arXiv 1505.07818): features that a discriminator cannot tell the domain by."""

    hidden: int = 1024  # of the discriminator
    dropout: float = 0.5

    def parts(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        return nn.ModuleDict(
            {
                "classes": nn.Linear(width, num_classes),
                "domain": discriminator(width, self.hidden, self.dropout),
            }
        )

    def adapt(self, parts: Any, source: Turns, target: Turns, progress: float) -> dict[str, Tensor]:
        domains = [_domain(parts, turns, progress) for turns in (source, target)]
        classes = functional.cross_entropy(parts["classes"](source.features), source.labels)
        return {"classes": classes, "domain": terms.domain_loss(*domains)}

    def judge(self, parts: Any, features: Tensor) -> Prediction:
        logits = parts["classes"](features)
        return Prediction(logits, logits.softmax(1).amax(1))


@dataclass(frozen=True)
class WeightedAdversarial(Adversarial):
    """UAN (You et al., CVPR 2019): the same, turns weighted by how likely both domains have their class."""

    def parts(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        made = super().parts(width, num_classes, num_target)
        assert isinstance(made, nn.ModuleDict)
        made["separate"] = discriminator(width, self.hidden, self.dropout)  # looks on
        return made

    def adapt(self, parts: Any, source: Turns, target: Turns, progress: float) -> dict[str, Tensor]:
        logits = [parts["classes"](turns.features) for turns in (source, target)]
        separate = [parts["separate"](turns.features.detach()).squeeze(1) for turns in (source, target)]
        weights = terms.transfer_weights(*logits, *separate)
        ours, theirs = (_domain(parts, turns, progress) for turns in (source, target))
        return {
            "classes": functional.cross_entropy(logits[0], source.labels),
            "domain": terms.domain_loss(ours, theirs, weights.source, weights.target),
            "separate": terms.domain_loss(*separate),
        }


class _Ensemble(nn.Module):
    def __init__(self, width: int, num_classes: int, heads: int) -> None:
        super().__init__()
        draws: list[Callable[[Tensor], Tensor]] = [  # the published five; the first is that of any linear layer
            partial(nn.init.kaiming_uniform_, a=math.sqrt(5)),
            partial(nn.init.xavier_uniform_, gain=math.sqrt(2)),
            nn.init.xavier_normal_,
            nn.init.kaiming_uniform_,
            nn.init.kaiming_normal_,
        ]
        layers = [nn.Linear(width, num_classes) for _ in range(heads)]
        for layer, draw in zip(layers, cycle(draws)):
            draw(layer.weight)
        self.heads = nn.ModuleList(layers)

    def forward(self, features: Tensor) -> Tensor:
        """(B, width) -> (heads, B, C)."""
        return torch.stack([head(features) for head in self.heads])


@dataclass(frozen=True)
class CalibratedEnsemble(_WithTarget):
    """CMU (Fu et al., ECCV 2020): unknown is what five heads are unsure, of different minds and unconfident about.

    Its scores are rescaled over all turns that are judged at once. Raises InputError for less than two heads.
    """

    heads: int = 5
    threshold: float = 0.5  # of the certainty
    hidden: int = 1024
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.heads < 2:
            raise InputError(f"objective.heads={self.heads}: give 2 or more, whose minds can differ")

    def parts(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        return nn.ModuleDict(
            {
                "ensemble": _Ensemble(width, num_classes, self.heads),
                "domain": discriminator(width, self.hidden, self.dropout),
            }
        )

    def adapt(self, parts: Any, source: Turns, target: Turns, progress: float) -> dict[str, Tensor]:
        classes = [functional.cross_entropy(each, source.labels) for each in parts["ensemble"](source.features)]
        domains = [_domain(parts, turns, progress) for turns in (source, target)]
        return {"classes": torch.stack(classes).mean(), "domain": terms.domain_loss(*domains)}

    def judge(self, parts: Any, features: Tensor) -> Prediction:
        logits = parts["ensemble"](features)
        certainty = terms.ensemble_certainty(logits)
        return Prediction(logits.softmax(-1).mean(0).log(), certainty, certainty > self.threshold)


@dataclass(frozen=True)
class OneAgainstAll(_WithTarget):
    """OVANet (arXiv 2104.03344): one binary decision for each class says whether it is that class at all."""

    open_weight: float = 0.5
    entropy_weight: float = 0.1

    def parts(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        return nn.ModuleDict(
            {
                "classes": nn.Linear(width, num_classes),
                "open": UnitClassifier(width, 2 * num_classes, normalised=False),
            }
        )

    def adapt(self, parts: Any, source: Turns, target: Turns, progress: float) -> dict[str, Tensor]:
        positive, negative = terms.one_against_all_losses(self._open(parts, source.features), source.labels)
        return {
            "classes": functional.cross_entropy(parts["classes"](source.features), source.labels),
            "open": self.open_weight * (positive + negative),
            "entropy": self.entropy_weight * terms.one_against_all_entropy(self._open(parts, target.features)),
        }

    def judge(self, parts: Any, features: Tensor) -> Prediction:
        logits = parts["classes"](features)
        found = self._open(parts, features).softmax(1)[:, 1]
        known = found.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)
        return Prediction(logits, known, known >= 0.5)

    def _open(self, parts: Any, features: Tensor) -> Tensor:
        """(B, 2, C): is not, is."""
        logits: Tensor = parts["open"](features)
        return logits.view(len(features), 2, -1)


class _PrototypesAndMemory(nn.Module):
    def __init__(self, width: int, num_classes: int, num_target: int, temperature: float) -> None:
        super().__init__()
        self.classes = UnitClassifier(width, num_classes, temperature)
        self.memory: Tensor
        self.register_buffer("memory", torch.zeros(num_target, width))


@dataclass(frozen=True)
class NeighbourhoodClustering(_WithTarget):
    """DANCE (arXiv 2002.07953): a target turn is near a class or near other target turns; unknown by its entropy."""

    weight: float = 0.05
    margin: float = 0.5
    temperature: float = 0.05

    def parts(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        return _PrototypesAndMemory(width, num_classes, num_target, self.temperature)

    def adapt(self, parts: Any, source: Turns, target: Turns, progress: float) -> dict[str, Tensor]:
        features = functional.normalize(target.features, dim=1)
        logits = parts.classes(target.features)
        nowhere = -1 / self.temperature
        of_memory = features @ parts.memory.clone().T / self.temperature
        of_memory = of_memory.index_fill(1, target.places, nowhere)  # these are in the batch
        same = torch.eye(len(features), dtype=torch.bool, device=features.device)
        of_batch = (features @ features.T / self.temperature).masked_fill(same, nowhere)
        found = {
            "classes": functional.cross_entropy(parts.classes(source.features), source.labels),
            "neighbours": self.weight * terms.neighbourhood_entropy(torch.cat([logits, of_memory, of_batch], 1)),
            "separation": self.weight * terms.entropy_separation(logits, self._threshold(logits), self.margin),
        }
        parts.memory[target.places] = features.detach()
        return found

    def judge(self, parts: Any, features: Tensor) -> Prediction:
        logits = parts.classes(features)
        entropy = terms.entropy(logits)
        return Prediction(logits, -entropy, entropy <= self._threshold(logits))

    def _threshold(self, logits: Tensor) -> float:
        return math.log(logits.shape[1]) / 2


class _TransportHead(nn.Module):
    def __init__(self, width: int, num_classes: int, num_target: int, objective: OptimalTransport) -> None:
        super().__init__()
        hidden, out = objective.hidden, objective.projection
        self.projection = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))
        self.classes = UnitClassifier(out, num_classes, objective.temperature)
        self.clusters = UnitClassifier(out, objective.clusters, objective.temperature)
        self.queue: Tensor
        self.queue_places: Tensor
        self.queued: Tensor
        self.class_shares: Tensor
        size = min(objective.queue, num_target)  # a longer one would hold a turn twice
        self.register_buffer("queue", torch.zeros(size, out))
        self.register_buffer("queue_places", torch.full((size,), -1))  # which turn each is
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))  # turns so far
        self.register_buffer("class_shares", torch.full((num_classes,), 1 / num_classes))

    def held(self) -> int:
        """How many turns are in the queue."""
        return min(int(self.queued), len(self.queue))

    def drawn(self, most: int) -> Tensor:
        """(M, projection): turns of the queue at random, some twice; at most so many, and no more than it holds."""
        held = self.held()
        return self.queue[torch.randint(max(1, held), (min(most, held),), device=self.queue.device)]

    def enqueue(self, features: Tensor, places: Tensor) -> None:
        """(B, projection) and (B,), in place of the oldest."""
        features, places = features[-len(self.queue) :], places[-len(self.queue) :]
        slots = (torch.arange(len(features), device=features.device) + self.queued) % len(self.queue)
        self.queue[slots], self.queue_places[slots] = features, places
        self.queued += len(features)


@dataclass(frozen=True)
class OptimalTransport(_WithTarget):
    """UniOT (arXiv 2210.17067): unbalanced transport to the classes finds common ones, balanced clusters the others."""

    weight: float = 0.1
    clusters: int = 20
    queue: int = 1000  # turns of the target that are kept, all of a smaller one
    near: float = 0.7  # cosine with a prototype
    momentum: float = 0.7  # of what each class is thought to receive
    common_from: float = 0.1  # of the training: classes are learnt first
    hidden: int = 2048
    projection: int = 256
    temperature: float = 0.1

    def parts(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        if find_spec("ot") is None:
            raise InputError("objective=uniot needs the package POT: pip install 'usdm[adaptation]'")
        return _TransportHead(width, num_classes, num_target, self)

    def adapt(self, parts: Any, source: Turns, target: Turns, progress: float) -> dict[str, Tensor]:
        features = functional.normalize(parts.projection(target.features), dim=1)
        found = {
            "classes": functional.cross_entropy(parts.classes(parts.projection(source.features)), source.labels),
            "private": self.weight * self._private(parts, features, target.places),
        }
        if progress >= self.common_from:
            found["common"] = self.weight * self._common(parts, features)
        parts.enqueue(features.detach(), target.places)
        return found

    def judge(self, parts: Any, features: Tensor) -> Prediction:
        unit = functional.normalize(parts.projection(features), dim=1)
        with torch.random.fork_rng(devices=[]):  # what is drawn to fill up is always the same
            torch.manual_seed(0)
            plan = self._plan(parts, unit, JUDGED_TOLERANCE)
        mass = terms.detect_common(plan).mass[-len(unit) :]
        return Prediction(plan[-len(unit) :].clamp_min(SMALLEST_MASS).log(), mass, mass > 1)

    def _private(self, parts: Any, features: Tensor, places: Tensor) -> Tensor:
        held = parts.held()
        neighbours = terms.nearest_neighbours(features, places, parts.queue[:held], parts.queue_places[:held])
        logits, other = parts.clusters(features), parts.clusters(neighbours)
        filling = parts.clusters(parts.drawn(self.clusters))
        scores = torch.cat([logits, other, filling]).detach() * self.temperature
        shares, other_shares, _ = terms.balanced_assignment(scores).split([len(logits), len(other), len(filling)])
        return terms.private_discovery_loss(shares, other_shares, logits, other)

    def _common(self, parts: Any, features: Tensor) -> Tensor:
        plan = self._plan(parts, torch.cat([parts.drawn(len(parts.queue)), features]), TRAINING_TOLERANCE)
        detected = terms.detect_common(plan)
        parts.class_shares.lerp_(plan.sum(0), 1 - self.momentum)
        common = detected.is_common[-len(features) :]
        logits = parts.classes(features)
        if not common.any():
            return logits.sum() * 0
        return functional.cross_entropy(logits[common], detected.classes[-len(features) :][common])

    def _plan(self, parts: Any, features: Tensor, tolerance: float) -> Tensor:
        """(M + N, C): of N features, and before them of M that fill up."""
        features, prototypes = features.detach(), parts.classes.prototypes().detach()
        filling = terms.adaptive_filling(features, prototypes, parts.class_shares, self.near, tolerance)
        return terms.transport(torch.cat([filling, features]) @ prototypes.T, parts.class_shares, tolerance)
