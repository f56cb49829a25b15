"""A Wav2Vec2 encoder (arXiv 2006.11477) of the published system's kind, apart from `transformers`.

Its convolutions normalise each frame, its layers normalise what goes in: so it is with XLS-R, and with the encoder that
ships in this package. The modules do what those of `transformers` do, with nothing for training, under the same names;
to import theirs takes twice as long as to import torch, which is most of what a short reply takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from usdm.checkpoint import NoInitialValues, StoredConfig, fill, read_weights

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": functional.gelu, "relu": functional.relu}


class Encoded(NamedTuple):
    last_hidden_state: Tensor  # (B, U, D)


class Wav2Vec2(nn.Module):
    """What `transformers.Wav2Vec2Model` is made of; `usdm.units.encoder` goes through the parts."""

    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = Convolutions(config)
        self.feature_projection = Projection(config)
        self.encoder = Layers(config)


class Convolutions(nn.Module):
    """(B, T) -> (B, C, U)."""

    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        widths = [1, *config.conv_dim]
        self.conv_layers = nn.ModuleList(
            Convolution(config, *shape)
            for shape in zip(widths, widths[1:], config.conv_kernel, config.conv_stride, strict=False)
        )

    def forward(self, waveforms: Tensor) -> Tensor:
        hidden = waveforms[:, None]
        for layer in self.conv_layers:
            hidden = layer(hidden)
        return hidden


class Convolution(nn.Module):
    def __init__(self, config: StoredConfig, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(outputs)
        self.activation = ACTIVATIONS[config.feat_extract_activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, U), of other C and U."""
        return self.activation(self.layer_norm(self.conv(hidden).transpose(1, 2)).transpose(1, 2))


class Projection(nn.Module):
    """(B, U, C) -> (B, U, D)."""

    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)

    def forward(self, frames: Tensor) -> Tensor:
        return self.projection(self.layer_norm(frames))


class Layers(nn.Module):
    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.pos_conv_embed = Positions(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm: nn.Module = nn.Identity()  # theirs stands after the last layer, where no units come from

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Encoded:
        """(B, U, D), and (B, U) bool where rows are padded."""
        if attention_mask is not None:
            hidden = hidden.masked_fill(~attention_mask[..., None], 0)
            attention_mask = attention_mask[:, None, None]
        hidden = hidden + self.pos_conv_embed(hidden)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return Encoded(self.layer_norm(hidden))


class Positions(nn.Module):
    """A convolution that sees `num_conv_pos_embeddings` frames, added to them: (B, U, D) -> the same."""

    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.num_conv_pos_embeddings
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.num_conv_pos_embedding_groups)
        self.conv = weight_norm(conv, dim=2)
        self.activation = ACTIVATIONS[config.feat_extract_activation]

    def forward(self, hidden: Tensor) -> Tensor:
        frames = hidden.shape[1]  # an even kernel gives one too many
        return self.activation(self.conv(hidden.transpose(1, 2))[..., :frames]).transpose(1, 2)


class Layer(nn.Module):
    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, U, D) -> the same. The mask as `scaled_dot_product_attention` has it."""
        hidden = hidden + self.attention(self.layer_norm(hidden), attention_mask)
        return hidden + self.feed_forward(self.final_layer_norm(hidden))


class Attention(nn.Module):
    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.num_heads: int = config.num_attention_heads
        width = config.hidden_size
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        query, key, value = (
            projection(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attention_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, config: StoredConfig) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output_dense(self.activation(self.intermediate_dense(hidden)))


def read_wav2vec2(folder: str | Path, stored: Mapping[str, Any]) -> Wav2Vec2 | None:
    """The encoder in `folder`, whose `config.json` is `stored`, in float32; None if it is of another kind.

    Raises InputError if its weights are missing or damaged, or do not fit the configuration.
    """
    if not is_plain(stored):
        return None
    with NoInitialValues():
        encoder = Wav2Vec2(StoredConfig(**stored))
    fill(encoder, read_weights(folder), folder)
    return encoder.eval()


def is_plain(stored: Mapping[str, Any]) -> bool:
    """Whether it configures an encoder as the published one is, and in full."""
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    positions = ("num_conv_pos_embeddings", "num_conv_pos_embedding_groups")
    lists = [stored.get(name) for name in ("conv_dim", "conv_kernel", "conv_stride")]
    return (
        stored.get("model_type") == "wav2vec2"
        and stored.get("feat_extract_norm") == "layer"
        and stored.get("do_stable_layer_norm") is True
        and all(type(stored.get(name)) is int for name in (*sizes, *positions))
        and all(isinstance(each, list) for each in lists)
        and len({len(each) for each in lists if each}) == 1
        and isinstance(stored.get("conv_bias"), bool)
        and {stored.get("feat_extract_activation"), stored.get("hidden_act")} <= ACTIVATIONS.keys()
        and isinstance(stored.get("layer_norm_eps"), float)
        and stored.get("adapter_attn_dim") is None
    )
