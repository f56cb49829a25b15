"""What `usdm.training.loop.train` asks of a task."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from usdm.runs import Arguments, arguments_of


class TrainingTask(ABC):
    """What is trained, on what, and how it is judged.

    All that a task depends on are its constructor's arguments, and these are remembered as it is made: two tasks of one
    class with the same arguments give the same weights. An argument that may be a `Path` is an input, which counts by
    its content (see `usdm.runs.arguments_of`).
    """

    arguments = Arguments()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Optimised, averaged and stored in checkpoints."""

    @abstractmethod
    def batch(self, step: int) -> Any:
        """Data of one step: a pure function of the task's seed and the step. Called beside the training, in order."""

    @abstractmethod
    def losses(self, batch: Any, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Scalars; "loss" is optimised, the others are logged."""

    @abstractmethod
    def validate(self, step: int, folder: Path) -> Mapping[str, float]:
        """Figures on held-out data; pictures and sound go into `folder`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """The finished part as a hub-style folder, which is there and empty."""


class AdversarialTask(TrainingTask):
    """A task whose losses ask a critic, which learns from each batch before them, by the same settings."""

    @abstractmethod
    def critic_modules(self) -> dict[str, nn.Module]:
        """Optimised and stored in checkpoints, not averaged; no part of what is made."""

    @abstractmethod
    def critic_losses(self, batch: Any, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Scalars; "loss" is optimised, all are logged with `critic_` before their names."""


def _remembering(constructor: Callable[..., None]) -> Callable[..., None]:
    """The same constructor; of those that call each other the outermost says what the task was made with."""
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def remembering(self: TrainingTask, *args: Any, **options: Any) -> None:
        if "arguments" not in vars(self):
            bound = signature.bind(self, *args, **options)
            bound.apply_defaults()
            given = dict(list(bound.arguments.items())[1:])  # but for self
            self.arguments = arguments_of(constructor, given)
        constructor(self, *args, **options)

    return remembering
