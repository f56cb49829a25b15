"""Each part without its weights: built on torch's meta device from configuration files alone, in no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from usdm.audio import MelSettings
from usdm.checkpoint import read_config
from usdm.decoder import UnitDecoder, UnitDecoderConfig
from usdm.types import InputError
from usdm.unit_to_speech.hifigan import UnitHifiGan, UnitHifiGanConfig
from usdm.unit_to_speech.loading import is_codec, load_unit_to_speech, needs_vocoder
from usdm.unit_to_speech.protocol import UNIT_HIFIGAN
from usdm.units import UnitExtractor, UnitSettings
from usdm.units.codec import CodecTokenizer
from usdm.units.encoder import encoder_class, encoder_config, keep_layers
from usdm.units.loading import tokenizer_class
from usdm.units.tokenizer import read_settings
from usdm.vocoder import VocosSettings, VocosVocoder
from usdm.vocoder.bigvgan_generator import BigVGANGenerator, BigVGANSettings

# Bytes for one weight of a linear layer, with its share of the scales as far as they count.
# int4: scales of 8 bits for 64 weights each, and one float32 for 256 of those (arXiv 2305.14314).
QUANTIZED_BYTES = {"int8": 1.0, "int4": 0.5 + 1 / 64 + 4 / (64 * 256)}


def build_meta_model(part: str, folder: Path) -> nn.Module:
    """The module that `folder` configures. Raises InputError if its configuration is missing or wrong."""
    build = {"units": _units, "llm": _language_model, "decoder": _decoder, "vocoder": _vocoder}[part]
    try:
        with torch.device("meta"):
            return build(folder)
    except (StrictDataclassError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: not the configuration of a part {part} ({error!r})") from error


def _units(folder: Path) -> nn.Module:
    kind = tokenizer_class(folder)
    if kind is not UnitExtractor:
        return _codec(folder) if issubclass(kind, CodecTokenizer) else _loaded(lambda: kind.from_pretrained(folder))
    values = read_settings(folder)
    values.pop("centroid_hash", None)  # of the centroids themselves, which are not looked at
    settings = UnitSettings(**values)
    config = encoder_config(read_config(folder), folder)
    encoder = keep_layers(encoder_class(config.model_type)(config), config.num_hidden_layers)
    return UnitExtractor(encoder, torch.empty(settings.num_units, config.hidden_size), settings)


def _language_model(folder: Path) -> PreTrainedModel:
    read_config(folder)  # complains in our words
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)))
    return model


def _codec(folder: Path) -> nn.Module:
    codec: nn.Module = AutoModel.from_config(AutoConfig.from_pretrained(str(folder)))
    return codec


def _decoder(folder: Path) -> nn.Module:
    if needs_vocoder(folder):
        return UnitDecoder(UnitDecoderConfig(**read_config(folder)))
    if is_codec(folder):
        return _codec(folder)
    if read_config(folder).get("model_type") == UNIT_HIFIGAN:
        return UnitHifiGan(UnitHifiGanConfig.load(folder))
    return _loaded(lambda: load_unit_to_speech(folder, None))


def _loaded(load: Callable[[], nn.Module]) -> nn.Module:
    """A part of somebody's own, which cannot be shaped without its weights: they are read, and let go again."""
    with torch.device("cpu"):
        return load().to("meta")


def _vocoder(folder: Path) -> nn.Module:
    config = read_config(folder)
    if "upsample_initial_channel" in config:
        return BigVGANGenerator(BigVGANSettings.from_config(config))
    config.pop("model_type", None)
    return VocosVocoder(VocosSettings(**{**config, "mel": MelSettings(**config["mel"])}))


def weight_bytes(module: nn.Module, dtype: torch.dtype | None = None, quantization: str | None = None) -> int:
    """Memory of a module's weights and buffers in `dtype` (None: as it was built), its linear layers quantised.

    As all quantisers do, the output layer and the embeddings are left as they are.
    """
    left = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
    linear = (
        {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear) and layer is not left}
        if quantization
        else set()
    )
    total = 0.0
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) in linear:
            total += tensor.numel() * QUANTIZED_BYTES[str(quantization)]
        else:
            stored = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            total += tensor.numel() * stored.itemsize
    return round(total)


def cache_bytes(model: PreTrainedModel, tokens: int, dtype: torch.dtype) -> int:
    """Keys and values of all layers for so many tokens; a sliding window does not shorten our cache."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * tokens * dtype.itemsize
