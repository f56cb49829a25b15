"""Modules and the optimizer that trains them, in one process or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Optimizer:
    """AdamW over the parameters that require a gradient; processes share the mean of their gradients.

    `gradient_clip` is the norm of all gradients together, above which they are scaled down.
    """

    def __init__(
        self,
        modules: nn.Module,
        accelerator: Accelerator,
        *,
        betas: tuple[float, float],
        weight_decay: float,
        gradient_clip: float,
    ) -> None:
        self.modules, self.accelerator, self.gradient_clip = modules, accelerator, gradient_clip
        self.trained = [parameter for parameter in modules.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, betas=betas, weight_decay=weight_decay)

    def learn(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=self.trained)  # other modules that the loss went through are not to learn from it
        self._share_gradients()
        nn.utils.clip_grad_norm_(self.trained, self.gradient_clip)
        self.optimizer.step()

    def _share_gradients(self) -> None:
        """The mean over processes, all parameters in one message."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.trained]
        shared: Any = self.accelerator.reduce(torch.cat([each.flatten() for each in gradients]), "mean")
        parts = shared.split([each.numel() for each in gradients])
        for parameter, part in zip(self.trained, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"parameters": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.modules.load_state_dict(state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
