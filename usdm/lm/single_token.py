"""One token through a Llama-like model on a CPU, with little besides the arithmetic.

For a model of a few million parameters most of the time of a `transformers` forward goes into Python: masks,
wrappers, checks. This is the same arithmetic on the same weights and the same cache, written out for one
token: about twice as fast there. Everything it does not cover goes through the model's own forward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import PreTrainedModel

from usdm.lm.cache import GrowingCache

MODEL_TYPES = ("llama", "mistral", "qwen2")
ROPE_TYPES = ("default", "linear", "llama3")  # rotations that depend on the position alone
ROTATIONS_AT_ONCE = 512  # positions


class _Linear(NamedTuple):
    """A layer's tensors: looking them up in a module takes as long as a small product."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, module: nn.Linear) -> _Linear:
        return cls(module.weight, module.bias)


class _Layer(NamedTuple):
    attention_norm: Tensor
    query: _Linear
    key: _Linear
    value: _Linear
    output: _Linear
    mlp_norm: Tensor
    gate: _Linear
    up: _Linear
    down: _Linear


def is_supported(model: PreTrainedModel) -> bool:
    """Whether `SingleTokenForward` computes what the model's own forward does."""
    config = model.config
    if config.model_type not in MODEL_TYPES or config.hidden_act != "silu":
        return False
    if config.rope_parameters.get("rope_type", "default") not in ROPE_TYPES:
        return False
    if config.model_type != "mistral" and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return False  # some layers with a window and some without
    projections = [module for name, module in model.named_modules() if name.endswith(("_proj", "lm_head"))]
    return all(type(module) is nn.Linear for module in projections) and all(
        weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in model.parameters()
    )


class SingleTokenForward:
    """Bound to one model and one cache, which the model's own forward has filled with the tokens before."""

    def __init__(self, model: PreTrainedModel, cache: GrowingCache) -> None:
        config: Any = model.config
        backbone: Any = model.base_model
        self.cache = cache
        self.epsilon: float = config.rms_norm_eps
        self.window: int | None = getattr(config, "sliding_window", None)
        self.head_dim: int = backbone.layers[0].self_attn.head_dim
        self.num_queries: int = config.num_attention_heads
        self.num_keys: int = config.num_key_value_heads
        self.embedding: Tensor = backbone.embed_tokens.weight
        self.norm: Tensor = backbone.norm.weight
        self.head: Tensor = model.lm_head.weight
        self.rotary = backbone.rotary_emb
        self.layers = [
            _Layer(
                layer.input_layernorm.weight,
                _Linear.of(layer.self_attn.q_proj),
                _Linear.of(layer.self_attn.k_proj),
                _Linear.of(layer.self_attn.v_proj),
                _Linear.of(layer.self_attn.o_proj),
                layer.post_attention_layernorm.weight,
                _Linear.of(layer.mlp.gate_proj),
                _Linear.of(layer.mlp.up_proj),
                _Linear.of(layer.mlp.down_proj),
            )
            for layer in backbone.layers
        ]
        self.rotations_from = 0
        self.cosines = self.sines = torch.empty(0, self.head_dim)

    def __call__(self, id_: int, position: int) -> Tensor:
        """Append the token to the cache: -> (V,) logits of the next one."""
        cosine, sine = self._rotation(position)
        first = 0 if self.window is None else max(0, position + 1 - self.window)
        num_queries, num_keys, head_dim = self.num_queries, self.num_keys, self.head_dim
        epsilon = self.epsilon
        hidden = self.embedding[id_ : id_ + 1]  # (1, hidden)
        shape = hidden.shape[-1:]
        for layer, cached in zip(self.layers, self.cache.growing, strict=True):
            x = F.rms_norm(hidden, shape, layer.attention_norm, epsilon)
            heads = torch.cat((F.linear(x, *layer.query), F.linear(x, *layer.key)), dim=1).view(-1, head_dim)
            heads = heads * cosine + heads.roll(head_dim // 2, dims=1) * sine
            value = F.linear(x, *layer.value).view(num_keys, head_dim)
            keys, values = cached.append(heads[num_queries:], value)
            # The queries that share a key head stand as one head's sequence, which spares repeating keys.
            attended = F.scaled_dot_product_attention(
                heads[:num_queries].view(1, num_keys, -1, head_dim), keys[:, :, first:], values[:, :, first:]
            )
            hidden = hidden + F.linear(attended.reshape(1, -1), *layer.output)
            x = F.rms_norm(hidden, shape, layer.mlp_norm, epsilon)
            hidden = hidden + F.linear(F.silu(F.linear(x, *layer.gate)) * F.linear(x, *layer.up), *layer.down)
        return F.linear(F.rms_norm(hidden, shape, self.norm, epsilon)[0], self.head)

    def _rotation(self, position: int) -> tuple[Tensor, Tensor]:
        """(head_dim,) cosine and sine of the rotary embedding, the sine signed for a roll by half."""
        row = position - self.rotations_from
        if not 0 <= row < len(self.cosines):
            positions = torch.arange(position, position + ROTATIONS_AT_ONCE)
            cosines, sines = self.rotary(self.embedding, positions[None])
            self.rotations_from, row = position, 0
            self.cosines, self.sines = cosines[0], sines[0].clone()
            self.sines[:, : self.head_dim // 2] *= -1
        return self.cosines[row], self.sines[row]
