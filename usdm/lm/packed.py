"""Many sequences through a Llama-like model, their tokens in one line.

A prompt of hundreds of ids, the few between two stages and the single ids of rows that write share every product
of the model; only the attention looks at each sequence by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from usdm.lm.head import AllowedIds, OutputHead
from usdm.lm.mistral import LanguageModel
from usdm.lm.slots import ForwardInput, SlotCache, SlotMapping, rows_of
from usdm.lm.weights import LlamaWeights


class PackedForward:
    """Bound to one model and one cache of slots."""

    def __init__(self, model: LanguageModel, cache: SlotCache, weights: LlamaWeights | None = None) -> None:
        """`weights`: of the model, where they are laid out already."""
        self.model = model
        self.weights = weights or LlamaWeights(model, transposed=model.device.type == "cpu")
        self.head = OutputHead(model)
        self.cache = cache
        self.device, self.dtype = model.device, model.dtype

    def __call__(self, reads: Sequence[ForwardInput]) -> Tensor:
        """-> (R, hidden): the last state of each of R sequences."""
        return self._read(reads, len(reads))

    def states(self, reads: Sequence[ForwardInput]) -> list[Tensor]:
        """(k, hidden) for each of R sequences: the states after all of the k ids that are read."""
        states = self._read(reads, sum(len(read.ids) for read in reads))
        last, before = states[: len(reads)], states[len(reads) :].split([len(read.ids) - 1 for read in reads])
        return [torch.cat((first, end[None])) for first, end in zip(before, last, strict=True)]

    def _read(self, reads: Sequence[ForwardInput], num_states: int) -> Tensor:
        weights, cache = self.weights, self.cache
        length = max(read.end for read in reads)
        cache.reserve(length)
        weights.rotations.reserve(length)
        # The last token of every read comes first: these R rows attend together, each over its own slot.
        tokens = [(read.slot, read.end - 1, read.ids[-1]) for read in reads]
        before = []
        for read in reads:
            if len(read.ids) > 1:
                first = len(tokens)
                tokens += [(read.slot, read.start + i, id_) for i, id_ in enumerate(read.ids[:-1])]
                before.append(Before(read, slice(first, len(tokens)), self.device, self.dtype, weights.window))
        slots, positions, ids = torch.tensor(tokens, device=self.device).unbind(1)
        cache.aim(SlotMapping(slots, positions, rows_of([read.slot for read in reads], self.device), length))
        return self.through_layers(ids, positions, len(reads), length, before, num_states)

    def logits(self, states: Tensor, allowed: AllowedIds) -> Tensor:
        """(R, hidden) -> (R, A)"""
        return self.head(states, allowed)

    def in_slots(self, cache: SlotCache) -> PackedForward:
        """The same over another cache."""
        return PackedForward(self.model, cache, self.weights)

    def through_layers(
        self,
        ids: Tensor,
        positions: Tensor,
        num_rows: int,
        length: int,
        before: Sequence[Before] = (),
        num_states: int | None = None,
    ) -> Tensor:
        """(N,) ids and positions, as the cache was told to aim -> (num_states, hidden), or (num_rows, hidden)"""
        weights = self.weights
        num_queries, num_keys, head_dim = weights.num_queries, weights.num_keys, weights.head_dim
        epsilon = weights.epsilon
        mask = visible(positions[:num_rows, None], length, self.dtype, weights.window)[:, None]  # (R, 1, 1, length)
        cosine = weights.rotations.cosines[positions, None]  # (N, 1, head_dim)
        sine = weights.rotations.sines[positions, None]
        hidden = weights.embedding[ids]  # (N, hidden)
        shape = hidden.shape[-1:]
        for layer, cached in zip(weights.layers, self.cache.layers, strict=True):
            x = F.rms_norm(hidden, shape, layer.attention_norm, epsilon)
            heads = layer.query_key_value(x).view(len(x), -1, head_dim)
            turned = heads[:, : num_queries + num_keys]
            turned = torch.addcmul(turned * cosine, turned.roll(head_dim // 2, dims=2), sine)
            queries = turned[:, :num_queries]
            keys, values = cached.write(turned[:, num_queries:], heads[:, num_queries + num_keys :])
            # The queries that share a key head stand as one head's sequence, which spares repeating keys.
            together = queries[:num_rows].view(num_rows, num_keys, -1, head_dim)
            attended = F.scaled_dot_product_attention(together, keys, values, mask).view(num_rows, -1)
            if before:
                alone = [part.attend(queries, cached.keys, cached.values) for part in before]
                attended = torch.cat((attended, *alone))
            hidden = hidden + layer.output(attended)
            gate, up = layer.gate_up(F.rms_norm(hidden, shape, layer.mlp_norm, epsilon)).chunk(2, dim=-1)
            hidden = hidden + layer.down(F.silu(gate) * up)
        return F.rms_norm(hidden[: num_states or num_rows], shape, weights.norm, epsilon)


class Before:
    """What a read has before its last token: its place in the line, and its attention."""

    def __init__(
        self, read: ForwardInput, tokens: slice, device: torch.device, dtype: torch.dtype, window: int | None
    ) -> None:
        self.slot = read.slot
        self.tokens = tokens
        self.length = read.end - 1
        self.mask: Tensor | None = None  # (k, length)
        if read.start or (window is not None and window < self.length):
            positions = torch.arange(read.start, self.length, device=device)
            self.mask = visible(positions, self.length, dtype, window)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(N, heads, head_dim) queries of the whole line -> (k, heads * head_dim)"""
        attended = F.scaled_dot_product_attention(
            queries[self.tokens].transpose(0, 1)[None],
            keys[self.slot : self.slot + 1, :, : self.length],
            values[self.slot : self.slot + 1, :, : self.length],
            self.mask,
            is_causal=self.mask is None,
            enable_gqa=True,
        )
        return attended[0].transpose(0, 1).flatten(1)


def visible(positions: Tensor, length: int, dtype: torch.dtype, window: int | None) -> Tensor:
    """What tokens at `positions` (...,) attend to, (..., length): 0, or the lowest number for what they do not."""
    others = torch.arange(length, device=positions.device)
    hidden = others > positions[..., None]
    if window is not None:
        hidden |= others <= positions[..., None] - window
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)
