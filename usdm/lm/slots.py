"""The key-value cache of many sequences: each has a slot, filled from the left, at its own pace.

All slots lie in one buffer a layer, so that a step of all sequences is one attention. `aim` says what the next
forward reads; every layer then writes its keys and values to those places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

FIRST_LENGTH = 256  # positions
ALL = slice(None)


@dataclass(frozen=True)
class ForwardInput:
    """Ids that a model is to read into one slot, after what it holds already."""

    slot: int
    start: int  # positions filled before
    ids: Sequence[int]

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


@dataclass(frozen=True)
class SlotMapping:
    """Where one forward writes and what it sees. The shape of `slots` and `positions` is that of its tokens."""

    slots: Tensor  # int64
    positions: Tensor  # int64
    view: slice | Tensor  # the slots that are attended over, one for each row of the attention
    length: int  # positions that are attended over


class CachedLayer(Protocol):
    """One layer of any cache."""

    keys: Tensor  # (B, heads, positions, head_dim)
    values: Tensor


class SlotLayer:
    """Keys and values of one layer: (slots, heads, positions, head_dim)."""

    keys: Tensor
    values: Tensor
    aim: SlotMapping

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.reserved = 0  # positions
        self.is_initialized = False

    def write(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (*tokens, heads, head_dim), and give what is attended over."""
        aim = self.aim
        if not self.is_initialized:
            self._buffer(keys)
        self.keys[aim.slots, :, aim.positions] = keys
        self.values[aim.slots, :, aim.positions] = values
        return self.keys[:, :, : aim.length][aim.view], self.values[:, :, : aim.length][aim.view]

    def write_one(self, position: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """`write` for one token of the first slot, (heads, head_dim), with less ado."""
        self.keys[0, :, position] = key
        self.values[0, :, position] = value
        return self.keys[:1, :, : position + 1], self.values[:1, :, : position + 1]

    def reserve(self, length: int) -> None:
        """Have room for `length` positions, or know that it will be wanted."""
        self.reserved = length
        if self.is_initialized and self.keys.shape[2] < length:
            self._buffer(self.keys)

    def widen(self, num_slots: int) -> None:
        """Have room for `num_slots` sequences."""
        self.num_slots = num_slots
        if self.is_initialized:
            self._buffer(self.keys)

    def fill(self, keys: Tensor, values: Tensor, slots: slice) -> None:
        """Let slots begin with (heads, k, head_dim)."""
        if not self.is_initialized:
            self._buffer(keys.transpose(0, 1))
        self.keys[slots, :, : keys.shape[1]] = keys
        self.values[slots, :, : keys.shape[1]] = values

    def _buffer(self, like: Tensor) -> None:
        heads, head_dim = (like.shape[1] if self.is_initialized else like.shape[-2]), like.shape[-1]
        for name in ("keys", "values"):
            new = like.new_zeros(self.num_slots, heads, self.reserved, head_dim)
            if self.is_initialized:
                old = getattr(self, name)
                new[: len(old), :, : old.shape[2]] = old
            setattr(self, name, new)
        self.is_initialized = True


class SlotCache:
    """One layer of slots for each of the model's. Positions grow by doubling, for all slots at once."""

    def __init__(self, num_layers: int, num_slots: int) -> None:
        self.layers = [SlotLayer(num_slots) for _ in range(num_layers)]
        self.num_slots = num_slots
        self.reserved = FIRST_LENGTH

    def reserve(self, length: int) -> None:
        """Have room for `length` positions a slot."""
        while self.reserved < length:
            self.reserved *= 2
        for layer in self.layers:
            layer.reserve(self.reserved)

    def aim(self, aim: SlotMapping) -> None:
        """What the next forward writes and sees."""
        for layer in self.layers:
            layer.aim = aim

    def widen(self, num_slots: int) -> None:
        """Have room for `num_slots` sequences."""
        self.num_slots = num_slots
        for layer in self.layers:
            layer.widen(num_slots)

    def fill(self, layers: Sequence[CachedLayer], length: int, slots: slice = ALL) -> None:
        """Let `slots` begin with the first `length` positions of another cache's first sequence."""
        self.reserve(length)
        for mine, theirs in zip(self.layers, layers, strict=True):
            mine.fill(theirs.keys[0, :, :length], theirs.values[0, :, :length], slots)

    def copy(self, sources: Sequence[int], targets: Sequence[int], positions: slice) -> None:
        """Copy positions of slots into others, as if all at once."""
        for layer in self.layers:
            for buffer in (layer.keys, layer.values):
                buffer[list(targets), :, positions] = buffer[list(sources), :, positions]


def rows_of(slots: Sequence[int], device: torch.device) -> slice | Tensor:
    """The same slots as a slice where they are the first ones: indexing by it copies nothing."""
    return slice(len(slots)) if list(slots) == [*range(len(slots))] else torch.tensor(slots, device=device)
