"""SSL speech encoders up to the layer that units come from, in transformers' classes or, of one kind, in `Wav2Vec2`.

All of them are a stack of convolutions and a transformer. The convolutions see no further than their receptive field,
with one exception: encoders with `feat_extract_norm="group"` normalise the first convolution's channels over the whole
waveform. Those statistics are taken once, so that any piece of a waveform, and any row of a padded batch, gets the
very features that it has in the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union

import torch
from torch import Tensor, nn

from usdm.checkpoint import StoredConfig, fill, read_config, read_weights
from usdm.types import InputError
from usdm.units.wav2vec2 import Wav2Vec2, read_wav2vec2

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Encoder = Union["PreTrainedModel", Wav2Vec2]  # noqa: UP007 (a name that is not there yet)
EncoderConfig = Union["PreTrainedConfig", StoredConfig]  # noqa: UP007
AnyEncoder = TypeVar("AnyEncoder", "PreTrainedModel", Wav2Vec2)

LOG_MEL = "log-mel"
# Modules and beginnings of the names of configuration and model. The models of `transformers` take seconds to import,
# so each is imported when it is wanted.
KINDS = {
    "wav2vec2": ("transformers", "Wav2Vec2"),
    "hubert": ("transformers", "Hubert"),
    "wavlm": ("transformers", "WavLM"),
    "data2vec-audio": ("transformers", "Data2VecAudio"),
    LOG_MEL: ("usdm.units.log_mel", "LogMel"),
}
STATISTICS_AT_ONCE = 480_000  # samples that the first convolution reads at a time


@dataclass(frozen=True)
class ChannelStatistics:
    """Of the first convolution's channels over one whole waveform."""

    mean: Tensor  # (C, 1)
    scale: Tensor  # (C, 1), one over the standard deviation


def load_encoder(folder: str | Path) -> Encoder:
    """An encoder that lost its upper layers through `keep_layers`, float32.

    Raises:
        InputError: a file is missing, damaged, does not fit the config, or holds another kind of model.
    """
    stored = read_config(folder)
    if (plain := read_wav2vec2(folder, stored)) is not None:
        return plain
    config = encoder_config(stored, folder)
    encoder = empty_encoder(config, config.num_hidden_layers)
    fill(encoder, read_weights(folder), folder)
    return encoder


def encoder_config(values: dict[str, object], folder: str | Path) -> PreTrainedConfig:
    """The configuration in `folder` as its kind's class. Raises InputError for another kind, or wrong values."""
    from huggingface_hub.errors import StrictDataclassError

    kind = str(values.get("model_type"))
    check_kind(kind, folder)
    module, name = KINDS[kind]
    config: type[PreTrainedConfig] = getattr(import_module(module), f"{name}Config")
    try:
        return config.from_dict(values)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise InputError(f"{folder}: no {kind} can be built with its settings ({error})") from error


def encoder_class(kind: str) -> type[PreTrainedModel]:
    """The model of a kind in `KINDS`."""
    module, name = KINDS[kind]
    model: type[PreTrainedModel] = getattr(import_module(module), f"{name}Model")
    return model


def check_kind(kind: str, place: str | Path) -> None:
    if kind not in KINDS:
        raise InputError(f"{place}: model_type is '{kind}', but units come from encoders of {', '.join(KINDS)}.")


def empty_encoder(config: PreTrainedConfig, layers: int) -> PreTrainedModel:
    """An encoder with only `layers` layers, whose memory is there but not filled: a state must be loaded into it."""
    config.num_hidden_layers = layers
    with torch.device("meta"):
        encoder = keep_layers(encoder_class(config.model_type)(config), layers)
    return encoder.to_empty(device="cpu")


def keep_layers(encoder: AnyEncoder, count: int) -> AnyEncoder:
    """Drop what comes after `count` transformer layers, so that the output is the last kept layer's."""
    encoder.encoder.layers = encoder.encoder.layers[:count]
    if is_pre_norm(encoder.config) and not is_log_mel(encoder.config):
        encoder.encoder.layer_norm = nn.Identity()  # stands after the layers; in other encoders before them
    encoder.config.num_hidden_layers = count
    if isinstance(encoder, Wav2Vec2):
        return encoder
    encoder.config.add_adapter, encoder.adapter = False, None
    # Masking is for training.
    encoder.config.mask_time_prob = encoder.config.mask_feature_prob = 0.0
    if hasattr(encoder, "masked_spec_embed"):
        del encoder.masked_spec_embed
    return encoder


def receptive_field(config: EncoderConfig) -> int:
    """Samples that one frame of the convolutions sees."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def frame_stride(config: EncoderConfig) -> int:
    """Samples from one frame to the next."""
    return math.prod(config.conv_stride)


def frame_count(config: EncoderConfig, samples: int) -> int:
    """Frames of a waveform; 0 if it is shorter than one."""
    return max(0, (samples - receptive_field(config)) // frame_stride(config) + 1)


def is_pre_norm(config: EncoderConfig) -> bool:
    """Whether each layer normalises what goes in; the encoder's own norm then stands after the layers."""
    return getattr(config, "do_stable_layer_norm", False)


def is_log_mel(config: EncoderConfig) -> bool:
    """Whether frames are told their place by sinusoids, and whatever layer they come from is normalised."""
    return config.model_type == LOG_MEL


def batches_unequal(config: EncoderConfig) -> bool:
    """Whether the frames that fill a shorter row stay silent in the positional convolutions."""
    return config.model_type != "data2vec-audio" and not getattr(config, "conv_pos_batch_norm", False)


def channel_statistics(encoder: Encoder, waveform: Tensor) -> ChannelStatistics | None:
    """Of one whole waveform (T,), read in pieces; None if the encoder has no norm over time."""
    if getattr(encoder.config, "feat_extract_norm", "layer") != "group":
        return None
    first: Any = encoder.feature_extractor.conv_layers[0]
    kernel, stride = first.conv.kernel_size[0], first.conv.stride[0]
    frames = (len(waveform) - kernel) // stride + 1
    at_once = STATISTICS_AT_ONCE // stride
    total = squares = torch.zeros(first.conv.out_channels, dtype=torch.float64)
    for start in range(0, frames, at_once):
        count = min(at_once, frames - start)
        piece = waveform[start * stride : (start + count - 1) * stride + kernel]
        channels = first.conv(piece.to(first.conv.weight)[None]).double()
        total = total + channels.sum(-1).cpu()
        squares = squares + channels.pow(2).sum(-1).cpu()
    mean = total / frames
    scale = (squares / frames - mean.pow(2)).clamp(min=0).add(first.layer_norm.eps).rsqrt()
    return ChannelStatistics(mean.float()[:, None], scale.float()[:, None])


def encode(encoder: Encoder, pieces: Sequence[Tensor], statistics: Sequence[ChannelStatistics | None]) -> Tensor:
    """Features of waveforms, or of pieces with their whole waveform's statistics: (T,) each -> (B, U, D) float32.

    Rows are filled to the longest; what a row holds behind its own frames is not defined.
    """
    hidden = project(encoder, pieces, statistics)
    lengths = torch.tensor([frame_count(encoder.config, len(piece)) for piece in pieces])
    mask = torch.arange(hidden.shape[1])[None] < lengths[:, None]
    even = bool(mask.all())
    return encoder.encoder(hidden, attention_mask=None if even else mask.to(hidden.device)).last_hidden_state.float()


def project(encoder: Encoder, pieces: Sequence[Tensor], statistics: Sequence[ChannelStatistics | None]) -> Tensor:
    """What the transformer gets: (T,) each -> (B, U, D)."""
    batch = nn.utils.rnn.pad_sequence(list(pieces), batch_first=True).to(next(encoder.parameters()))
    projected = encoder.feature_projection(_convolve(encoder, batch, statistics).transpose(1, 2))
    return projected[0] if isinstance(projected, tuple) else projected


def _convolve(encoder: Encoder, batch: Tensor, statistics: Sequence[ChannelStatistics | None]) -> Tensor:
    """(B, T) -> (B, C, U)."""
    known = [row for row in statistics if row is not None]
    if not known:
        return encoder.feature_extractor(batch)
    layers: Any = encoder.feature_extractor.conv_layers
    first, *others = layers
    norm = first.layer_norm
    mean = torch.stack([row.mean for row in known]).to(batch)
    scale = torch.stack([row.scale for row in known]).to(batch)
    hidden = (first.conv(batch[:, None]) - mean) * scale * norm.weight[:, None] + norm.bias[:, None]
    hidden = first.activation(hidden)
    for layer in others:
        hidden = layer(hidden)
    return hidden
