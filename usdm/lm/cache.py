"""One sequence through any model of `transformers`, over a cache that is written in place.

`transformers`' dynamic cache copies everything for every new token; its static one attends over the whole
reserved length and cannot be cut back. Here keys and values lie in one buffer that doubles when full. Layers
with a sliding window keep everything too (the attention mask applies the window), or else a cut far back
would have nothing to return to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from usdm.lm.head import OutputHead, pick_allowed
from usdm.lm.padded import PaddedForward
from usdm.lm.slots import ForwardInput, SlotCache
from usdm.lm.weights import is_llama_like

FIRST_CAPACITY = 256  # tokens


class GrowingForward:
    """Bound to one model, with a cache of its own."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache = GrowingCache(model.config.get_text_config().num_hidden_layers)
        self.logits = OutputHead(model) if is_llama_like(model) else pick_allowed  # of what a call gives: -> (R, A)

    def __call__(self, reads: Sequence[ForwardInput]) -> Tensor:
        """After the last id of the one sequence: -> (1, hidden) of a Llama-like model, (1, V) logits of a stranger."""
        (read,) = reads
        self.cache.cut_back(read.start)
        ids = torch.tensor([read.ids], device=self.model.device)
        if isinstance(self.logits, OutputHead):
            return self.model.base_model(ids, cache=self.cache, use_cache=True).last_hidden_state[:, -1]
        return self.model(ids, cache=self.cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def in_slots(self, cache: SlotCache) -> PaddedForward:
        """The same for many sequences. Raises InputError as `PaddedForward` does."""
        return PaddedForward(self.model, cache)


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
        super().__init__(layers=[GrowingLayer() for _ in range(num_layers)])

    def cut_back(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        for layer in self.layers:
            layer.length = min(layer.length, length)


def _buffer(like: Tensor, capacity: int) -> Tensor:
    batch, heads, _, head_dim = like.shape
    return like.new_zeros(batch, heads, capacity, head_dim)
