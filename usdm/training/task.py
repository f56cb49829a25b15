"""What `usdm.training.loop.train` asks of a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class TrainingTask(Protocol):
    """What is trained, on what, and how it is judged."""

    def modules(self) -> dict[str, nn.Module]:
        """Optimised, averaged and stored in checkpoints."""

    def batch(self, step: int) -> Any:
        """Data of one step: a pure function of the task's seed and the step. Called beside the training, in order."""

    def losses(self, batch: Any, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Scalars; "loss" is optimised, the others are logged."""

    def validate(self, step: int, folder: Path) -> Mapping[str, float]:
        """Figures on held-out data; pictures and sound go into `folder`."""

    def save(self, folder: Path) -> None:
        """The finished part as a hub-style folder."""


@runtime_checkable
class AdversarialTask(TrainingTask, Protocol):
    """A task whose losses ask a critic, which learns from each batch before them, by the same settings."""

    def critic_modules(self) -> dict[str, nn.Module]:
        """Optimised and stored in checkpoints, not averaged; no part of what is made."""

    def critic_losses(self, batch: Any, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Scalars; "loss" is optimised, all are logged with `critic_` before their names."""
