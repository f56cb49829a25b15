"""Waveforms of any length: every layer attends to the frames around (sliding-window attention, arXiv 2004.05150).

An encoder that learnt from utterances of seconds gives worse units when it attends to minutes at once. Here a frame
sees `context` frames on both sides in each layer. That is computed in overlapping windows, layer by layer, so a unit
depends on the sound around it alone and not on where a window ends: the seams change nothing, and memory beyond the
window is one vector a frame. Encoders that count positions are the exception: they count in each window anew, and what
comes of a window's middle is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from usdm.types import InputError
from usdm.units.encoder import (
    ChannelStatistics,
    Encoder,
    frame_count,
    frame_stride,
    is_log_mel,
    is_pre_norm,
    project,
    receptive_field,
)


@dataclass(frozen=True)
class Window:
    """Frames `first` to `end` are computed together; the results of `kept_first` to `kept_end` are used."""

    first: int
    end: int
    kept_first: int
    kept_end: int


def plan_windows(frames: int, size: int, context: int) -> Iterator[Window]:
    """At most `size` frames each; every kept frame has `context` frames on both sides, where there are so many."""
    step = size - 2 * context
    for kept in range(0, frames, step):
        end = min(frames, kept + step)
        yield Window(max(0, kept - context), min(frames, end + context), kept, end)


def encode_long(
    encoder: Encoder, waveform: Tensor, statistics: ChannelStatistics | None, size: int, context: int
) -> Tensor:
    """Features of a waveform (T,) in windows of `size` frames: (U, D) float32."""
    stride, field = frame_stride(encoder.config), receptive_field(encoder.config)
    frames = frame_count(encoder.config, len(waveform))
    pieces = (
        waveform[w.first * stride : (w.end - 1) * stride + field] for w in plan_windows(frames, size - 2 * context, 0)
    )
    hidden = torch.cat([project(encoder, [piece], [statistics])[0] for piece in pieces])
    transformer = encoder.encoder

    def in_windows(compute: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat(
            [
                compute(hidden[None, w.first : w.end])[0, w.kept_first - w.first : w.kept_end - w.first]
                for w in plan_windows(frames, size, context)
            ]
        )

    if is_log_mel(encoder.config):
        return in_windows(lambda window: transformer(window).last_hidden_state).float()
    hidden = hidden + in_windows(transformer.pos_conv_embed)
    if not is_pre_norm(encoder.config):
        hidden = transformer.layer_norm(hidden)
    band = _band(encoder, min(size, frames), context).to(hidden)
    for layer in transformer.layers:
        hidden = in_windows(partial(_attend, layer, band))
    return hidden.float()


def check_context(encoder: Encoder, context: int) -> None:
    """Raises InputError if positional convolutions see further than `context` frames."""
    config = encoder.config
    if config.model_type == "data2vec-audio":
        needed = config.num_conv_pos_embeddings * (config.conv_pos_kernel_size // 2)
    else:
        needed = config.num_conv_pos_embeddings // 2
    if context < needed:
        raise InputError(
            f"context is {context} frames, but the encoder's positional convolutions see {needed}: set context to that "
            "many frames or more."
        )


def _band(encoder: Encoder, size: int, context: int) -> Tensor:
    """What is added to attention scores between frames: minus infinity where they are further apart than `context`."""
    index = torch.arange(size)
    band = torch.zeros(size, size).masked_fill((index[:, None] - index).abs() > context, float("-inf"))
    if encoder.config.model_type != "wavlm":
        return band[None, None]  # (1, 1, size, size)
    layers: Any = encoder.encoder.layers
    for layer in layers:
        # WavLM multiplies its position bias by a gate that is sure to be positive only from here on.
        if (lowest := layer.attention.gru_rel_pos_const.min().item()) < -1:
            raise InputError(
                f"A gru_rel_pos_const of this WavLM is {lowest:g}; from -1 on, long audio can be encoded in windows. "
                "Cut the audio into pieces that are no longer than the window."
            )
    return layers[0].attention.compute_bias(size, size).cpu() + band  # (heads, size, size)


def _attend(layer: torch.nn.Module, band: Tensor, hidden: Tensor) -> Tensor:
    """One layer over (1, n, D)."""
    near = band[..., : hidden.shape[1], : hidden.shape[1]]
    if near.dim() == 3:  # WavLM: (heads, n, n)
        return layer(hidden, position_bias=near)[0]
    output = layer(hidden, attention_mask=near)
    return output[0] if isinstance(output, tuple) else output
