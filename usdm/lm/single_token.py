"""One token through a Llama-like model on a CPU, with little besides the arithmetic.

Longer reads are for `PackedForward`, on the same weights and the same cache.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from usdm.lm.slots import SlotCache
from usdm.lm.weights import LlamaWeights


class SingleTokenForward:
    """Bound to one model and the first slot of a cache, which holds the tokens before."""

    def __init__(self, weights: LlamaWeights, cache: SlotCache) -> None:
        self.weights = weights
        self.cache = cache

    def __call__(self, id_: int, position: int) -> Tensor:
        """Append the token to the cache: -> (1, hidden) last state."""
        weights = self.weights
        num_queries, num_keys, head_dim = weights.num_queries, weights.num_keys, weights.head_dim
        rotated, half, epsilon = num_queries + num_keys, head_dim // 2, weights.epsilon
        weights.rotations.reserve(position + 1)
        self.cache.reserve(position + 1)
        cosine, sine = weights.rotations.cosines[position], weights.rotations.sines[position]
        first = 0 if weights.window is None else max(0, position + 1 - weights.window)
        hidden = weights.embedding[id_ : id_ + 1]  # (1, hidden)
        for layer, cached in zip(weights.layers, self.cache.layers, strict=True):
            heads = layer.query_key_value(_rms_norm(hidden, layer.attention_norm, epsilon)).view(-1, head_dim)
            turned = heads[:rotated]
            turned = torch.addcmul(turned * cosine, turned.roll(half, 1), sine)
            keys, values = cached.write_one(position, turned[num_queries:], heads[rotated:])
            # The queries that share a key head stand as one head's sequence, which spares repeating keys.
            attended = F.scaled_dot_product_attention(
                turned[:num_queries].view(1, num_keys, -1, head_dim), keys[:, :, first:], values[:, :, first:]
            )
            hidden = hidden + layer.output(attended.view(1, -1))
            gate, up = layer.gate_up(_rms_norm(hidden, layer.mlp_norm, epsilon)).chunk(2, 1)
            hidden = hidden + layer.down(F.silu(gate) * up)
        return _rms_norm(hidden, weights.norm, epsilon)


def _rms_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """(1, hidden) -> (1, hidden). PyTorch's own takes twice as long for one row."""
    row = hidden[0]
    return hidden * (1 / math.sqrt(float(row.dot(row)) / len(row) + epsilon)) * weight
