"""Published encoder checkpoints to transformers' layout, once, so that nobody unpickles them twice.

`xlsr2_1b_v2.pt` exists in two key layouts, fairseq's and fairseq2's; both hold `{"model": state_dict}`.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from usdm.types import InputError
from usdm.units.extractor import UnitExtractor, UnitSettings

# Only in training: quantiser, contrastive projections, time masking.
_UNUSED = re.compile(r"^(quantizer|project_q|final_proj|final_target_proj|layer_norm_q|input_quantizer|target_glu)\b")

_FAIRSEQ = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
    (r"^mask_emb$", "masked_spec_embed"),
)
_FAIRSEQ2 = (
    (r"^encoder_frontend\.feature_extractor\.layers\.", "feature_extractor.conv_layers."),
    (r"^encoder_frontend\.post_extract_layer_norm\.", "feature_projection.layer_norm."),
    (r"^encoder_frontend\.model_dim_proj\.", "feature_projection.projection."),
    (r"^encoder_frontend\.pos_encoder\.conv\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn\.output_proj\.", ".attention.out_proj."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.ffn_layer_norm\.", ".final_layer_norm."),
    (r"\.ffn\.inner_proj\.", ".feed_forward.intermediate_dense."),
    (r"\.ffn\.output_proj\.", ".feed_forward.output_dense."),
    (r"^masker\.temporal_mask_embed$", "masked_spec_embed"),
)
_WEIGHT_NORM = (
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)


def convert_encoder(checkpoint: str | Path, config: Wav2Vec2Config) -> Wav2Vec2Model:
    """A fairseq or fairseq2 wav2vec 2.0 checkpoint as a transformers model.

    Raises:
        InputError: the file is missing, truncated or holds more than tensors, or its tensors do not fit `config`.
    """
    path = Path(checkpoint)
    state = {_renamed(name): value for name, value in _read(path).items() if not _UNUSED.match(name)}
    model = Wav2Vec2Model(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if name != "masked_spec_embed"]
    if missing or unexpected:
        raise InputError(
            f"{path} does not fit the encoder's config: missing {missing[:3]}, unexpected {list(unexpected)[:3]} "
            f"({len(missing)} and {len(unexpected)} in all). Give the config of this very encoder."
        )
    return model


def convert_extractor(
    checkpoint: str | Path,
    centroids: str | Path,
    output_dir: str | Path,
    *,
    config: Wav2Vec2Config,
    settings: UnitSettings,
) -> UnitExtractor:
    """Published files (`.pt` and `.npy`) to one folder that `UnitExtractor.from_pretrained` reads.

    Raises:
        InputError: as `convert_encoder`, and where the centroids do not fit.
    """
    array = np.load(centroids, allow_pickle=False)
    extractor = UnitExtractor(convert_encoder(checkpoint, config), torch.from_numpy(array), settings)
    extractor.save_pretrained(output_dir)
    return extractor


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} does not exist: download the encoder's checkpoint, or name a local copy.")
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} is truncated, or holds more than tensors, and is not loaded: {error}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise InputError(f'{path} is no fairseq checkpoint: it must hold {{"model": tensors by name}}.')
    return checkpoint["model"]


def _renamed(name: str) -> str:
    layout = _FAIRSEQ2 if name.startswith(("encoder_frontend.", "masker.")) or _is_fairseq2_layer(name) else _FAIRSEQ
    for pattern, replacement in (*layout, *_WEIGHT_NORM):
        name = re.sub(pattern, replacement, name)
    return name


def _is_fairseq2_layer(name: str) -> bool:
    return ".ffn" in name or ".self_attn.output_proj." in name
