"""The four codecs of transformers with small random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    DacConfig,
    DacModel,
    EncodecConfig,
    EncodecModel,
    MimiConfig,
    MimiModel,
    PreTrainedModel,
    Xcodec2Config,
    Xcodec2Model,
)

CODES = 64
ATTENTION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def random_codec(kind: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = BUILD[kind]()
        for name, buffer in codec.named_buffers():
            if buffer.dim() == 2 and name.endswith(("embed", "embed_sum")):
                buffer.copy_(torch.randn_like(buffer))  # codebooks are trained apart, and begin empty
        return codec.eval()


def _encodec() -> PreTrainedModel:
    sizes = {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "num_lstm_layers": 1}
    # 75 frames of 6 bits make 0.45 kbit/s a codebook
    return EncodecModel(EncodecConfig(codebook_size=CODES, target_bandwidths=[0.9, 3.6], **sizes))


def _mimi() -> PreTrainedModel:
    codebooks = {"codebook_size": CODES, "codebook_dim": 16, "num_quantizers": 6}
    sizes = {"num_filters": 4, "vector_quantization_hidden_dimension": 16, "upsample_groups": 32, "sliding_window": 20}
    return MimiModel(MimiConfig(**ATTENTION, **codebooks, **sizes))


def _dac() -> PreTrainedModel:
    sizes = {"encoder_hidden_size": 8, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4, 8, 5]}
    return DacModel(DacConfig(codebook_size=CODES, codebook_dim=4, n_codebooks=4, sampling_rate=16_000, **sizes))


def _xcodec2() -> PreTrainedModel:
    semantic = {"model_type": "wav2vec2-bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    semantic |= {"intermediate_size": 32, "feature_projection_input_dim": 160}
    levels = {"quantization_dim": 64, "quantization_levels": [4, 4, 4]}
    return Xcodec2Model(Xcodec2Config(encoder_hidden_size=4, semantic_model_config=semantic, **ATTENTION, **levels))


BUILD = {"encodec": _encodec, "mimi": _mimi, "dac": _dac, "xcodec2": _xcodec2}
