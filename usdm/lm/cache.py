"""A key-value cache that is written in place and can be cut back to any length.

`transformers`' dynamic cache copies everything for every new token; its static one attends over the whole
reserved length and cannot be cut back. Here keys and values lie in one buffer that doubles when full. Layers
with a sliding window keep everything too (the attention mask applies the window), or else a cut far back
would have nothing to return to.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

FIRST_CAPACITY = 256  # tokens


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer: (B, heads, capacity, head_dim) buffers, of which `length` is filled."""

    keys: Tensor
    values: Tensor
    length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = _buffer(key_states, FIRST_CAPACITY)
        self.values = _buffer(value_states, FIRST_CAPACITY)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, n, head_dim) and give all that is filled."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[2]
        self._reserve(end)
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """`update` for one token of a batch of one, (heads, head_dim), with less ado."""
        at, end = self.length, self.length + 1
        self._reserve(end)
        self.keys[0, :, at] = key
        self.values[0, :, at] = value
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length

    def _reserve(self, length: int) -> None:
        capacity = self.keys.shape[2]
        if length <= capacity:
            return
        while capacity < length:
            capacity *= 2
        for name in ("keys", "values"):
            old = getattr(self, name)
            setattr(self, name, _buffer(old, capacity))
            getattr(self, name)[:, :, : self.length] = old[:, :, : self.length]


class GrowingCache(Cache):
    """One growing layer for each of the model's."""

    def __init__(self, num_layers: int) -> None:
        self.growing = [GrowingLayer() for _ in range(num_layers)]
        super().__init__(layers=[*self.growing])

    def cut_back(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        for layer in self.growing:
            layer.length = min(layer.length, length)


def _buffer(like: Tensor, capacity: int) -> Tensor:
    batch, heads, _, head_dim = like.shape
    return like.new_zeros(batch, heads, capacity, head_dim)
