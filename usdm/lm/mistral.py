"""A Mistral (arXiv 2310.06825) to generate with, apart from `transformers`.

It is the kind that this package trains and ships. The forwards over it are written out already (see
`usdm.lm.weights`), so all that is needed of the model are its weights; and to import the models of `transformers`
takes twice as long as to import torch, which is most of what a short reply takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from usdm.checkpoint import WEIGHTS_FILE, NoInitialValues, StoredConfig, fill, read_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LanguageModel = Union["PreTrainedModel", "Mistral"]  # noqa: UP007 (names that are not there yet, or at all)

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


class Mistral(nn.Module):
    """The weights, by the names that `transformers.MistralForCausalLM` has for them. It has no forward of its own."""

    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def base_model(self) -> Backbone:
        return self.model

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def num_parameters(self) -> int:
        return sum(weight.numel() for weight in self.parameters())


class Backbone(nn.Module):
    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.rotary_emb = Rotary(config)


class Layer(nn.Module):
    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size)


class Attention(nn.Module):
    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.head_dim: int = config.head_dim
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)


class FeedForward(nn.Module):
    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)


class Rotary(nn.Module):
    """Rotary embeddings (arXiv 2104.09864)."""

    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.base: float = config.rope_parameters["rope_theta"]
        self.head_dim: int = config.head_dim

    def forward(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) positions -> cosines and sines, (B, L, head_dim) each in the precision of `like`."""
        exponents = torch.arange(0, self.head_dim, 2, device=positions.device).float() / self.head_dim
        angles = positions[..., None].float() / self.base**exponents
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def read_mistral(folder: str | Path, stored: Mapping[str, Any]) -> Mistral | None:
    """The model in `folder`, whose `config.json` is `stored`, in float32.

    None if it is of another kind, or has its weights in several files. Raises InputError if they are damaged, or do
    not fit the configuration.
    """
    if not is_plain(stored) or not (Path(folder) / WEIGHTS_FILE).is_file():
        return None
    with NoInitialValues():
        model = Mistral(StoredConfig(**stored))
    fill(model, read_weights(folder), folder)
    return model.eval()


def is_plain(stored: Mapping[str, Any]) -> bool:
    """Whether it configures a Mistral as the published one is, and in full."""
    rope = stored.get("rope_parameters")
    return (
        stored.get("model_type") == "mistral"
        and all(type(stored.get(name)) is int for name in SIZES)
        and stored.get("hidden_act") == "silu"
        and stored.get("tie_word_embeddings") is False
        and isinstance(rope, dict)
        and rope.keys() == {"rope_type", "rope_theta"}
        and rope["rope_type"] == "default"
        and {"rms_norm_eps", "sliding_window"} <= stored.keys()
        and "quantization_config" not in stored
    )


_whole: WeakKeyDictionary[Mistral, PreTrainedModel] = WeakKeyDictionary()


def in_transformers(model: LanguageModel) -> PreTrainedModel:
    """The same weights with all that `transformers` can do with them; made once for each model."""
    if not isinstance(model, Mistral):
        return model
    if model not in _whole:
        from transformers import MistralConfig, MistralForCausalLM

        config = MistralConfig.from_dict(vars(model.config), attn_implementation="sdpa")
        whole: PreTrainedModel = MistralForCausalLM(config)
        whole.load_state_dict(model.state_dict(), assign=True)
        _whole[model] = whole.eval()
    return _whole[model]
