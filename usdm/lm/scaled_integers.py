"""Linear layers of frozen whole numbers whose scales are trained (PEQA, arXiv 2305.14152).

A weight is rounded once: of each row, or of each group of inputs in a row, it becomes a scale times whole numbers of a
few bits. Training moves the scales alone, a number for each row or group, so a task is those scales, and any number of
tasks share the integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from usdm.types import InputError

BITS = range(2, 9)
CENTRE = 128  # of 8 bits, so that they fit a signed byte; fewer bits may have their zero anywhere
SHRINKS = tuple(1 - step / 20 for step in range(13))  # of the range from lowest to highest weight: 1.0 to 0.4
DIGITS = 16  # of a digest, hexadecimal


@dataclass(frozen=True, eq=False)
class RoundedWeight:
    """G groups of inputs in each row: the weight is about `integers * scale`."""

    integers: Tensor  # (out, G, in / G) int8, the zero point subtracted
    scale: Tensor  # (out, G, 1) float32

    @property
    def weight(self) -> Tensor:
        """(out, in)"""
        return (self.integers * self.scale).flatten(1)


def round_to_nearest(
    weight: Tensor, bits: int, group: int | None = None, shrinks: tuple[float, ...] = SHRINKS
) -> RoundedWeight:
    """The (out, in) weight in `bits` a number; `group` inputs share a scale, or all of a row where it is None.

    Scale and zero point span the weights of a group from the lowest to the highest, or that range times the one of
    `shrinks` which leaves the smallest squared error. They are the same on every machine.
    """
    levels = 2**bits - 1
    groups = weight.detach().float().unflatten(1, (-1, group or weight.shape[1]))
    if groups.is_meta:  # of a plan, which wants shapes alone
        return RoundedWeight(groups.to(torch.int8), groups[..., :1])
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    smallest = torch.finfo(torch.float32).tiny
    best: tuple[Tensor, Tensor, Tensor] | None = None  # error, integers, scale
    for shrink in shrinks:
        if bits == max(BITS):
            scale = (torch.maximum(-low / CENTRE, high / (levels - CENTRE)) * shrink).clamp(min=smallest)
            zero = torch.full_like(scale, CENTRE)
        else:
            scale = ((high - low) * shrink / levels).clamp(min=smallest)
            zero = (-low * shrink / scale).round().clamp(0, levels)
        integers = ((groups / scale).round() + zero).clamp(0, levels) - zero
        error = (integers * scale - groups).square().sum(-1, keepdim=True, dtype=torch.float64)
        found = (error, integers, scale)
        if best is not None:
            found = tuple(torch.where(error < best[0], new, old) for new, old in zip(found, best, strict=True))  # type: ignore[assignment]
        best = found
    assert best is not None
    return RoundedWeight(best[1].to(torch.int8), best[2])


class ScaledIntLinear(nn.Module):
    """(..., in) -> (..., out) by a rounded weight; its `scale` may be trained."""

    integers: Tensor

    def __init__(self, rounded: RoundedWeight, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.register_buffer("integers", rounded.integers)
        self.scale = nn.Parameter(rounded.scale)
        self.bias = bias

    @property
    def rounded(self) -> RoundedWeight:
        """As it is now."""
        return RoundedWeight(self.integers, self.scale.detach())

    @property
    def per_channel(self) -> bool:
        return self.integers.shape[1] == 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.per_channel:
            return F.linear(x, (self.integers * self.scale).flatten(1).to(x.dtype), self.bias)
        product = F.linear(x, self.integers[:, 0].to(x.dtype)) * self.scale[:, 0, 0].to(x.dtype)
        return product if self.bias is None else product + self.bias


def scale_linears(model: Any, bits: int, group: int | None) -> None:
    """Put `ScaledIntLinear` in place of every linear layer but the output head.

    Raises:
        InputError: `bits` is none of 2 to 8, or `group` does not divide the inputs of a layer. Nothing is changed then.
    """
    if bits not in BITS:
        raise InputError(f"bits={bits}: weights can be rounded to {BITS[0]} to {BITS[-1]} bits")
    linears = list(_linears(model))
    for name, _, _, linear in linears:
        if group is not None and (group < 1 or linear.in_features % group):
            raise InputError(
                f"group={group}: layer {name} has {linear.in_features} inputs, which it does not divide; take one that "
                "divides the inputs of all layers, or null for one scale a row"
            )
    for _, parent, name, linear in linears:
        setattr(parent, name, ScaledIntLinear(round_to_nearest(linear.weight, bits, group), linear.bias))


def _linears(model: Any) -> Iterator[tuple[str, nn.Module, str, nn.Linear]]:
    head = model.get_output_embeddings()
    for place, parent in list(model.named_modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child is not head:
                yield f"{place}.{name}", parent, name, child


def scaled_layers(model: nn.Module) -> dict[str, ScaledIntLinear]:
    """By their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ScaledIntLinear)}


def in_floats(model: nn.Module) -> None:
    """Put ordinary linear layers, with the weights that they stand for, in place of all `ScaledIntLinear`."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ScaledIntLinear):
                weight = child.rounded.weight
                with torch.device("meta"):
                    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=child.bias is not None)
                linear.weight = nn.Parameter(weight, requires_grad=False)
                linear.bias = child.bias  # type: ignore[assignment]
                setattr(parent, name, linear)


def integers_digest(weights: Mapping[str, Tensor]) -> str:
    """Of the whole numbers among a model's weights: what scales belong to."""
    found = hashlib.sha256()
    for name in sorted(name for name in weights if name.rpartition(".")[2] == "integers"):
        found.update(f"{name} {tuple(weights[name].shape)}".encode())
        found.update(weights[name].cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:DIGITS]
