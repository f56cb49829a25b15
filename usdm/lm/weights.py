"""The tensors of a Llama-like model, laid out for forwards that are written out by hand.

For a model of a few million parameters most of the time of a `transformers` forward goes into Python: masks,
wrappers, checks. Forwards over these weights do the same arithmetic with little besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from usdm.lm.mistral import LanguageModel
from usdm.lm.quantization import Int8Linear

MODEL_TYPES = ("llama", "mistral", "qwen2")
ROPE_TYPES = ("default", "linear", "llama3")  # rotations that depend on the position alone
COPIED_PARAMETERS = 32_000_000  # a smaller model's layers are copied side by side: fewer, larger products

Product = Callable[[Tensor], Tensor]


class LayerWeights(NamedTuple):
    """One layer. Looking a tensor up in a module takes as long as a small product."""

    attention_norm: Tensor
    query_key_value: Product
    output: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product


class LlamaWeights:
    """All layers of a model that `is_llama_like`."""

    def __init__(self, model: LanguageModel, transposed: bool = False) -> None:
        """`transposed` lays the copies of a small model out for products of many rows."""
        config: Any = model.config
        backbone: Any = model.base_model
        self.epsilon: float = config.rms_norm_eps
        self.window: int | None = getattr(config, "sliding_window", None)
        self.head_dim: int = backbone.layers[0].self_attn.head_dim
        self.num_queries: int = config.num_attention_heads
        self.num_keys: int = config.num_key_value_heads
        self.embedding: Tensor = backbone.embed_tokens.weight
        self.norm: Tensor = backbone.norm.weight
        self.rotations = Rotations(backbone.rotary_emb, self.embedding)
        small = sum(weight.numel() for weight in model.parameters()) < COPIED_PARAMETERS

        def product(*modules: nn.Module) -> Product:
            return _product(modules, copied=small, transposed=transposed)

        with torch.inference_mode():
            self.layers = [
                LayerWeights(
                    layer.input_layernorm.weight,
                    product(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                    product(layer.self_attn.o_proj),
                    layer.post_attention_layernorm.weight,
                    product(layer.mlp.gate_proj, layer.mlp.up_proj),
                    product(layer.mlp.down_proj),
                )
                for layer in backbone.layers
            ]


class Rotations:
    """Rotary embeddings (arXiv 2104.09864) of all positions so far, the sine signed for a roll by half."""

    def __init__(self, rotary: Any, like: Tensor) -> None:
        self.rotary = rotary
        self.like = like
        self.cosines = self.sines = like.new_empty(0)  # (positions, head_dim)

    def reserve(self, length: int) -> None:
        """Know the positions below `length`."""
        if length <= len(self.cosines):
            return
        positions = torch.arange(max(length, 2 * len(self.cosines)), device=self.like.device)
        cosines, sines = self.rotary(self.like, positions[None])
        self.cosines, self.sines = cosines[0], sines[0].clone()
        self.sines[:, : self.sines.shape[1] // 2] *= -1


def is_llama_like(model: LanguageModel) -> bool:
    """Whether the forwards written out here compute what the model's own does."""
    config = model.config
    if config.model_type not in MODEL_TYPES or config.hidden_act != "silu":
        return False
    if config.rope_parameters.get("rope_type", "default") not in ROPE_TYPES:
        return False
    if config.model_type != "mistral" and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return False  # some layers with a window and some without
    projections = [module for name, module in model.named_modules() if name.endswith(("_proj", "lm_head"))]
    return all(type(module) in (nn.Linear, Int8Linear) for module in projections)


def is_on_cpu_in_float32(model: LanguageModel) -> bool:
    """Whether plain arithmetic on the CPU is what the model wants."""
    return all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in model.parameters())


def is_on_one_gpu(model: LanguageModel) -> bool:
    """Whether all weights lie on the same GPU in the same precision."""
    places = {(weight.device, weight.dtype) for weight in model.parameters()}
    return len(places) == 1 and next(iter(places))[0].type == "cuda"


def _product(modules: Sequence[nn.Module], copied: bool, transposed: bool) -> Product:
    """(N, in) -> (N, out): the modules' outputs side by side."""
    linears = [module for module in modules if type(module) is nn.Linear]
    if len(linears) < len(modules) or not (copied or len(modules) == 1):
        return lambda x: torch.cat([module(x) for module in modules], dim=-1)
    weight: Tensor = linears[0].weight
    bias: Tensor | None = linears[0].bias
    if len(linears) > 1:
        weight = torch.cat([linear.weight for linear in linears])
        bias = None if bias is None else torch.cat([linear.bias for linear in linears])
    if copied and transposed:
        weight = weight.t().contiguous().t()
    return lambda x: F.linear(x, weight, bias)
