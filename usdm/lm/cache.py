"""A key-value cache that is written in place and can be cut back to any length.

`transformers`' dynamic cache copies everything for every new token, its static one computes attention over the
whole reserved length and cannot be cut back. Here keys and values lie in one buffer that doubles when full.
Layers with a sliding window keep everything too (the attention mask applies the window), or else an edit far
back would have nothing to return to.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

FIRST_CAPACITY = 256  # tokens


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer: (B, heads, capacity, head_dim) buffers, of which `length` is filled."""

    length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = self._buffer(key_states, FIRST_CAPACITY), self._buffer(value_states, FIRST_CAPACITY)
        self.is_initialized = True

    @staticmethod
    def _buffer(like: Tensor, capacity: int) -> Tensor:
        batch, heads, _, head_dim = like.shape
        return like.new_zeros(batch, heads, capacity, head_dim)

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in all."""
        if length > (capacity := self.keys.shape[2]):
            while capacity < length:
                capacity *= 2
            keys, values = self.keys, self.values
            self.keys, self.values = self._buffer(keys, capacity), self._buffer(values, capacity)
            self.keys[:, :, : self.length] = keys[:, :, : self.length]
            self.values[:, :, : self.length] = values[:, :, : self.length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, n, head_dim) and give all that is filled."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[2]
        self.reserve(end)
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append one token's (heads, head_dim) of a batch of one and give all that is filled."""
        at = self.length
        self.reserve(at + 1)
        self.keys[0, :, at] = key
        self.values[0, :, at] = value
        self.length = at + 1
        return self.keys[:, :, : at + 1], self.values[:, :, : at + 1]

    def get_seq_length(self) -> int:
        return self.length


def growing_cache() -> Cache:
    return Cache(layer_class_to_replicate=GrowingLayer)


def cut_back(cache: Cache, length: int) -> None:
    """Forget all but the first `length` tokens."""
    for layer in cache.layers:
        layer.length = min(layer.length, length)
