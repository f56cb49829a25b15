"""What a turn classifier is trained for.

An objective of one's own is a frozen dataclass that extends `ClassifierObjective`, in any module that Python can
import; its fields are its settings. What it learns beside the backbone is in the module that `head` makes, buffers such
as memories included: all of it is optimised, averaged, stored and loaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Turns(NamedTuple):
    """A batch of turns as the backbone hears them."""

    features: Tensor  # (B, width) float32, with gradients while training
    labels: Tensor  # (B,) int64; of an unlabelled target all -1
    places: Tensor  # (B,) int64: which of the training turns each is, from 0, for memories


class Prediction(NamedTuple):
    """Of N turns."""

    logits: Tensor  # (N, C) of the known classes; their softmax is the classifier's belief
    known: Tensor  # (N,) the higher, the likelier of a known class
    is_known: Tensor | None = None  # (N,) bool, where the objective decides that by itself, without a threshold


class ClassifierObjective:
    """What training minimises, and how it is asked afterwards."""

    needs_target: ClassVar[bool] = False  # unlabelled turns of another domain, in batches beside the labelled ones

    def head(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        """On features (B, width). `num_target`: unlabelled training turns; 0 where there is no target."""
        raise NotImplementedError(f"{type(self).__name__} has no head")

    def losses(self, head: nn.Module, source: Turns, target: Turns | None, progress: float) -> Mapping[str, Tensor]:
        """Scalars; "loss" is minimised, the others are logged. `progress`: of the training, 0 to 1."""
        raise NotImplementedError(f"{type(self).__name__} has no losses")

    def predict(self, head: nn.Module, features: Tensor) -> Prediction:
        """Of all N turns that are judged, (N, width), at once."""
        raise NotImplementedError(f"{type(self).__name__} does not predict")


@dataclass(frozen=True)
class CrossEntropy(ClassifierObjective):
    """Labelled turns alone: one linear layer, softmax."""

    label_smoothing: float = 0.0

    def head(self, width: int, num_classes: int, num_target: int) -> nn.Module:
        return nn.Linear(width, num_classes)

    def losses(self, head: nn.Module, source: Turns, target: Turns | None, progress: float) -> Mapping[str, Tensor]:
        logits = head(source.features)
        loss = functional.cross_entropy(logits, source.labels, label_smoothing=self.label_smoothing)
        right = (logits.argmax(1) == source.labels).float().mean()
        return {"loss": loss, "accuracy": right}

    def predict(self, head: nn.Module, features: Tensor) -> Prediction:
        logits: Tensor = head(features)
        return Prediction(logits, logits.softmax(1).max(1).values)


def seeded_head(objective: ClassifierObjective, width: int, num_classes: int, num_target: int, seed: int) -> nn.Module:
    """The same random head for the same seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return objective.head(width, num_classes, num_target)
