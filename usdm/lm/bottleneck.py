"""Adapters of a narrow layer behind attention and feed-forward (Houlsby et al., arXiv 1902.00751)."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from usdm.types import InputError

# The last layer of an attention, and of a feed-forward, as the models of `transformers` call them.
SUBLAYER_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj", "down_proj", "fc2", "dense_4h_to_h")
INITIAL_DEVIATION = 0.01  # of the way down, as published


class WithBottleneck(nn.Module):
    """A layer, and h + up(gelu(down(h))) of what it gives: (..., in) -> (..., width). Up is zero at first."""

    def __init__(self, base_layer: nn.Module, width: int, rank: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Linear(width, rank)
        self.up = nn.Linear(rank, width)
        nn.init.normal_(self.down.weight, std=INITIAL_DEVIATION)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.base_layer(x)
        narrow = F.gelu(self.down(hidden.to(self.down.weight.dtype)))
        return hidden + self.up(narrow).to(hidden.dtype)


def add_bottlenecks(model: nn.Module, width: int, rank: int) -> None:
    """Behind every attention and feed-forward of `model`, whose states are `width` wide.

    Raises InputError if its layers have other names than those that are known.
    """
    if rank < 1:
        raise InputError(f"rank={rank}: give 1 or more")
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if name in SUBLAYER_OUTPUTS
    ]
    if not found:
        raise InputError(
            f"adapter=bottleneck: no layer of {type(model).__name__} is called {', '.join(SUBLAYER_OUTPUTS)}; take "
            "adapter=lora"
        )
    device = next(model.parameters()).device
    for parent, name, child in found:
        setattr(parent, name, WithBottleneck(child, width, rank).to(device))
