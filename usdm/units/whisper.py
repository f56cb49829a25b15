"""Whisper's encoder as the start of a log-mel encoder: it has heard 680,000 hours of people (arXiv 2212.04356)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import WhisperModel

from usdm.runs import split_revision
from usdm.types import InputError
from usdm.units.hub import UNREADABLE, first_line, hub_config, quiet
from usdm.units.log_mel import LogMelModel

# Names of a layer's parts, here and in transformers' Whisper.
_PARTS = {
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.out_proj": "self_attn.out_proj",
    "layer_norm": "self_attn_layer_norm",
    "feed_forward.intermediate_dense": "fc1",
    "feed_forward.output_dense": "fc2",
    "final_layer_norm": "final_layer_norm",
}


def start_from_whisper(encoder: LogMelModel, name: str | Path) -> None:
    """Fill `encoder` with the convolutions and layers of a Whisper model's encoder.

    Layers above Whisper's last start as that one; of Whisper's layers above `encoder`'s last nothing is taken.

    Args:
        name: a hub name, such as openai/whisper-tiny.en, or a local folder in transformers' layout.

    Raises:
        InputError: it cannot be had or read, or is of another size.
    """
    theirs, ours = hub_config(name), encoder.config
    if theirs.model_type != "whisper":
        raise InputError(f"{name}: model_type is '{theirs.model_type}', not whisper: give a Whisper model.")
    sizes = {
        "mel bands": (theirs.num_mel_bins, ours.conv_dim[0]),
        "width": (theirs.d_model, ours.hidden_size),
        "attention heads": (theirs.encoder_attention_heads, ours.num_attention_heads),
        "inner width": (theirs.encoder_ffn_dim, ours.intermediate_size),
    }
    if different := [f"{what} {one} against {other}" for what, (one, other) in sizes.items() if one != other]:
        raise InputError(f"{name} does not fit the encoder's config: {', '.join(different)}; set the config to its.")
    try:
        with quiet():
            repository, revision = split_revision(name)
            whisper, report = WhisperModel.from_pretrained(
                repository,
                revision=revision,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
    except UNREADABLE as error:
        raise InputError(f"{name}: the weights cannot be read or are damaged ({first_line(error)}).") from error
    if missing := sorted(key for key in report["missing_keys"] if key.startswith("encoder.")):
        raise InputError(f"{name}: the weights lack {missing[:3]} ({len(missing)} in all): they are not Whisper's.")
    state = whisper.encoder.state_dict()
    encoder.feature_extractor.load_state_dict(
        {key: state[key] for key in state if key.startswith("conv")}, strict=False
    )
    for index, layer in enumerate(encoder.encoder.layers):
        layer.load_state_dict(_layer(state, min(index, theirs.encoder_layers - 1)))


def _layer(state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """One of Whisper's layers by Wav2Vec2's names; Whisper's keys have no bias."""
    own: dict[str, Tensor] = {}
    for ours, theirs in _PARTS.items():
        weight = state[f"layers.{index}.{theirs}.weight"]
        own[f"{ours}.weight"] = weight
        own[f"{ours}.bias"] = state.get(f"layers.{index}.{theirs}.bias", weight.new_zeros(len(weight)))
    return own
