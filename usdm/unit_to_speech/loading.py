"""Which way from units to sound a folder holds."""

from __future__ import annotations

from pathlib import Path

import torch

from usdm.checkpoint import CLASS_KEY, CONFIG_FILE, class_named, read_config
from usdm.types import InputError
from usdm.unit_to_speech.flow_matching import FlowMatchingToSpeech
from usdm.unit_to_speech.protocol import UNIT_HIFIGAN, UnitToSpeech
from usdm.units.tokenizer import SETTINGS_FILE


def needs_vocoder(decoder: str | Path) -> bool:
    """Whether what a folder holds makes mels, and so needs a vocoder. Raises InputError if it has no configuration."""
    config = read_config(decoder)
    return not (is_codec(decoder) or CLASS_KEY in config or config.get("model_type") == UNIT_HIFIGAN)


def is_codec(folder: str | Path) -> bool:
    return (Path(folder) / SETTINGS_FILE).is_file()


def load_unit_to_speech(
    decoder: str | Path,
    vocoder: str | Path | None,
    *,
    dtype: torch.dtype | None = None,
    use_cuda_kernel: bool = False,
) -> UnitToSpeech:
    """A flow matching decoder with its vocoder; or, without one, a unit HiFi-GAN, a codec's folder, or a kind of one's
    own, whose `config.json` names its `class`.

    `dtype` is that of the flow matching network, `use_cuda_kernel` BigVGAN's. Raises InputError for a folder that is
    damaged or of no known kind, and for a vocoder that is missing or is not needed.
    """
    if needs_vocoder(decoder):
        return FlowMatchingToSpeech.from_pretrained(decoder, vocoder, dtype=dtype, use_cuda_kernel=use_cuda_kernel)
    if vocoder is not None:
        raise InputError(f"vocoder={vocoder}: {decoder} makes sound by itself; give vocoder=null")
    if is_codec(decoder):
        from usdm.unit_to_speech.codec import CodecToSpeech

        return CodecToSpeech.from_pretrained(decoder)
    config = read_config(decoder)
    if config.get("model_type") == UNIT_HIFIGAN:
        from usdm.unit_to_speech.hifigan import UnitHifiGan

        return UnitHifiGan.from_pretrained(decoder)
    kind: type[UnitToSpeech] = class_named(config[CLASS_KEY], UnitToSpeech, Path(decoder) / CONFIG_FILE)
    return kind.from_pretrained(decoder)
