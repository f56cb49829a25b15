"""Published encoders and their centroids to one folder, once, so that nobody unpickles them twice.

`xlsr2_1b_v2.pt` exists in two key layouts, fairseq's and fairseq2's; both hold `{"model": state_dict}`.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, Wav2Vec2Config

from usdm.types import InputError
from usdm.units import UnitExtractor, UnitSettings
from usdm.units.centroids import read_centroids
from usdm.units.encoder import empty_encoder
from usdm.units.hub import load_hub_encoder, preprocessing

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


def convert_extractor(
    checkpoint: str | Path,
    centroids: str | Path,
    output_dir: str | Path,
    *,
    config: Wav2Vec2Config | None,
    settings: UnitSettings,
    pickled: bool = False,
) -> UnitExtractor:
    """An encoder and its centroids to one folder that `UnitExtractor.from_pretrained` reads.

    Args:
        checkpoint: a fairseq or fairseq2 file (`.pt`), or a hub name or local folder of an encoder in transformers'
            layout (Wav2Vec2, HuBERT, WavLM, data2vec); a hub name may have an @REVISION.
        centroids: `.npy`, `.pt` or `.safetensors`.
        config: of the encoder in a `.pt` file, which does not hold it; None for the others, which do.
        pickled: weights of transformers' layout may lie in `pytorch_model.bin` too. What is pickled, this as well as a
            `.pt` file, is read by torch's unpickler of tensors alone.

    Raises:
        InputError: a file is missing, damaged or unsafe, or the parts do not fit together; both values are named.
    """
    table = read_centroids(centroids)
    if Path(checkpoint).suffix in (".pt", ".pth") or Path(checkpoint).is_file():
        if config is None:
            raise InputError(f"{checkpoint} does not hold its encoder's config: choose it, as units=xlsr2_1b_v2 does.")
        encoder = convert_encoder(checkpoint, config, settings.layer)
    else:
        if config is not None:
            raise InputError(
                f"{checkpoint} is no .pt file, and brings its own config: choose units=hubert_base or another encoder "
                "in transformers' layout."
            )
        _check_preprocessing(checkpoint, settings)
        encoder = load_hub_encoder(checkpoint, settings.layer, pickled)
    extractor = UnitExtractor(encoder, table, settings)
    extractor.save_pretrained(output_dir)
    return extractor


def convert_encoder(checkpoint: str | Path, config: Wav2Vec2Config, layer: int) -> PreTrainedModel:
    """A fairseq or fairseq2 wav2vec 2.0 checkpoint as a transformers model, up to `layer` (0-based).

    Raises:
        InputError: the file is missing, truncated or holds more than tensors, its tensors do not fit `config`, or it
            has no such layer.
    """
    path = Path(checkpoint)
    state = {_renamed(name): value for name, value in _read(path).items() if not _UNUSED.match(name)}
    layers = 1 + max((_layer(name) for name in state), default=-1)
    if layers != config.num_hidden_layers:
        raise InputError(
            f"{path} does not fit the encoder's config: the file has {layers} layers, the config "
            f"{config.num_hidden_layers}. Give the config of this very encoder."
        )
    if layer >= layers:
        raise InputError(f"{path} has {layers} layers, so there is no layer {layer} (0-based): choose one below.")
    encoder = empty_encoder(Wav2Vec2Config.from_dict(config.to_dict()), layer + 1)
    left_out = ("masked_spec_embed", "encoder.layer_norm.") if config.do_stable_layer_norm else ("masked_spec_embed",)
    state = {name: value for name, value in state.items() if _layer(name) <= layer and not name.startswith(left_out)}
    _fill(encoder, state, path)
    return encoder


def _fill(encoder: PreTrainedModel, state: dict[str, Tensor], path: Path) -> None:
    try:
        missing, unexpected = encoder.load_state_dict(state, strict=False)
    except RuntimeError as error:  # another shape
        raise InputError(f"{path} does not fit the encoder's config: {error}") from error
    if missing or unexpected:
        raise InputError(
            f"{path} does not fit the encoder's config: missing {missing[:3]}, unexpected {unexpected[:3]} "
            f"({len(missing)} and {len(unexpected)} in all). Give the config of this very encoder."
        )


def _layer(name: str) -> int:
    """0-based; -1 for what stands before the layers."""
    found = re.match(r"encoder\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _check_preprocessing(name: str | Path, settings: UnitSettings) -> None:
    normalize, sample_rate = preprocessing(name)
    if normalize != settings.normalize:
        raise InputError(
            f"{name} was trained with do_normalize={normalize}, but settings.normalize is {settings.normalize}: "
            "set it to that."
        )
    if sample_rate != settings.sample_rate:
        raise InputError(
            f"{name} hears {sample_rate} Hz, but settings.sample_rate is {settings.sample_rate} Hz: set it to that."
        )


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} does not exist: download the encoder's checkpoint, or name a local copy.")
    try:
        # A mapped file's upper layers are never read into memory; only the newer of torch's formats can be mapped.
        mapped = zipfile.is_zipfile(path)
        checkpoint = torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
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
