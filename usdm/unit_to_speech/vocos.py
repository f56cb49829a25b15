"""Vocos on the codes of EnCodec: clearer sound than the codec's own decoder makes (arXiv 2306.00814, section 4.2).

The codes of a frame are looked up and summed, and a Vocos network that knows how many there are makes the sound, at
once for all frames. Weights are those of charactr/vocos-encodec-24khz on the hub (package `vocos`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from torch import Tensor, nn
from torch.nn import functional
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from usdm.checkpoint import CLASS_KEY, fill, read_config, read_weights, save_folder
from usdm.runs import split_revision
from usdm.types import InputError, ReferenceVoice
from usdm.unit_to_speech.protocol import DecoderSampling, OneVoice, refuse_voices
from usdm.unit_to_speech.windows import CodeStream, Context, WindowStream
from usdm.units.codebooks import CodebookLayout, Layout
from usdm.units.codec import CodecTokenizer, whole

CONFIG_YAML, WEIGHTS_BIN = "config.yaml", "pytorch_model.bin"  # as published
CODEBOOK_WEIGHTS = "feature_extractor.codebook_weights"
KERNEL_SIZE = 7  # of every convolution over frames, fixed by the package


@dataclass(frozen=True)
class VocosUnitsConfig:
    """`config.json`, key by key. Raises InputError for a number of codebooks that the network was not trained with."""

    layout: Layout
    codebooks: int  # Q
    codes: int  # of each codebook
    sample_rate: int  # Hz
    trained_codebooks: tuple[int, ...]  # numbers of them, one for each embedding of the adaptive norms
    feature_dim: int
    dim: int
    intermediate_dim: int
    num_layers: int
    n_fft: int
    hop_length: int

    def __post_init__(self) -> None:
        if self.codebooks not in self.trained_codebooks:
            raise InputError(
                f"codebooks={self.codebooks}: this Vocos was trained with {self.trained_codebooks} "
                "of them; make units with as many"
            )
        CodebookLayout(self.layout, self.codebooks, self.codes)

    @classmethod
    def load(cls, folder: str | Path) -> VocosUnitsConfig:
        """`config.json` in `folder`. Raises InputError if it is missing or wrong."""
        values = read_config(folder)
        values.pop(CLASS_KEY, None)
        try:
            return cls(**{**values, "trained_codebooks": tuple(values["trained_codebooks"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder}: not the configuration of Vocos on units ({error})") from error


class VocosUnits(OneVoice):
    """Units of EnCodec to sound. Its units hold the voice, so there is none to choose."""

    def __init__(self, config: VocosUnitsConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = CodebookLayout(config.layout, config.codebooks, config.codes)
        self.codebook_weights = nn.Parameter(torch.zeros(config.codebooks * config.codes, config.feature_dim))
        self.backbone = VocosBackbone(
            config.feature_dim,
            config.dim,
            config.intermediate_dim,
            config.num_layers,
            adanorm_num_embeddings=len(config.trained_codebooks),
        )
        self.head = ISTFTHead(config.dim, config.n_fft, config.hop_length, padding="same")
        self.head.istft.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)  # a constant

    @property
    def num_units(self) -> int:
        return self.layout.num_units

    @property
    def frame_rate(self) -> float:
        """Hz."""
        return whole(self.config.sample_rate / self.config.hop_length)

    @property
    def unit_rate(self) -> float:
        return whole(self.frame_rate * self.layout.units_per_frame)

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def context(self) -> Context:
        """Frames around one: the convolutions' reach and the overlap of the inverse transform's windows."""
        overlap = math.ceil((self.config.n_fft - self.config.hop_length) / 2 / self.config.hop_length)
        reach = (1 + self.config.num_layers) * (KERNEL_SIZE // 2) + overlap
        return Context(reach, reach)

    def speak(self, units: Tensor) -> Tensor:
        """See `OneVoice`."""
        return self.sound(self.layout.frames(units))

    @torch.inference_mode()
    def sound(self, codes: Tensor) -> Tensor:
        """(Q, F) codes -> (F * hop_length,) float32, on the CPU."""
        if not codes.shape[1]:
            return torch.zeros(0)
        offsets = self.config.codes * torch.arange(len(codes))[:, None]
        features = functional.embedding((codes.cpu() + offsets).to(self.device), self.codebook_weights).sum(0)
        known = self.config.trained_codebooks.index(self.config.codebooks)
        hidden = self.backbone(features.T[None], bandwidth_id=torch.tensor([known], device=self.device))
        made: Tensor = self.head(hidden)[0].float().cpu()
        return made

    def stream(self, voice: ReferenceVoice | None, seed: int, sampling: DecoderSampling) -> CodeStream:
        refuse_voices(self, [voice])
        window = WindowStream(self.sound, self.config.hop_length, self.frame_rate, self.context)
        return CodeStream(self.layout.frames, window)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VocosUnits:
        model = cls(VocosUnitsConfig.load(folder))
        fill(model, read_weights(folder), folder)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        save_folder(folder, {CLASS_KEY: kind, **asdict(self.config)}, self, torch.float32)


def convert_vocos(checkpoint: str | Path, tokenizer: str | Path, output_dir: str | Path) -> VocosUnits:
    """Published weights, as the decoder of a tokenizer's units.

    Args:
        checkpoint: `OWNER/REPO@REVISION` on the hub, or a folder with its `config.yaml` and `pytorch_model.bin`.
        tokenizer: folder of an EnCodec tokenizer (`usdm convert_codec`).

    Raises:
        InputError: one of them cannot be had or read, the tokenizer is of another codec, or its number of codebooks is
            none that the weights know.
    """
    units = CodecTokenizer.from_pretrained(tokenizer)
    if units.codec.config.model_type != "encodec":
        raise InputError(f"{tokenizer}: codes of {units.codec.config.model_type}; Vocos speaks those of EnCodec")
    parts, weights = _read_published(checkpoint)
    try:
        model = VocosUnits(_config(parts, units))
        table = weights[CODEBOOK_WEIGHTS][: len(model.codebook_weights)]
    except (KeyError, TypeError) as error:
        raise InputError(f"{checkpoint}: no Vocos on EnCodec's codes ({error!r}); give one that is") from error
    own = {name: value for name, value in weights.items() if name.startswith(("backbone.", "head."))}
    own.pop("head.istft.window", None)
    fill(model, {"codebook_weights": table, **own}, checkpoint)
    model.save_pretrained(output_dir)
    return model.eval()


def _config(parts: Mapping[str, Any], tokenizer: CodecTokenizer) -> VocosUnitsConfig:
    features, backbone, head = (parts[name]["init_args"] for name in ("feature_extractor", "backbone", "head"))
    codec = tokenizer.codec.config
    code_rate = codec.frame_rate * codec.codebook_nbits / 1000  # kbit/s of a codebook
    return VocosUnitsConfig(
        layout=tokenizer.settings.layout,
        codebooks=tokenizer.settings.codebooks,
        codes=tokenizer.codebooks.codes,
        sample_rate=tokenizer.sample_rate,
        trained_codebooks=tuple(round(bandwidth / code_rate) for bandwidth in features["bandwidths"]),
        feature_dim=backbone["input_channels"],
        dim=backbone["dim"],
        intermediate_dim=backbone["intermediate_dim"],
        num_layers=backbone["num_layers"],
        n_fft=head["n_fft"],
        hop_length=head["hop_length"],
    )


def _read_published(checkpoint: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`config.yaml`, and the tensors of `pytorch_model.bin`."""
    folder = Path(checkpoint)
    repository, revision = split_revision(str(checkpoint))
    try:
        files = [
            folder / name if folder.is_dir() else Path(hf_hub_download(repository, name, revision=revision))
            for name in (CONFIG_YAML, WEIGHTS_BIN)
        ]
        parts = yaml.safe_load(files[0].read_text(encoding="utf-8"))
        # They are published in no other format; torch's restricted unpickler reads tensors alone, once.
        weights = torch.load(files[1], map_location="cpu", weights_only=True)
    except (OSError, HFValidationError, yaml.YAMLError, RuntimeError, EOFError, UnpicklingError) as error:
        raise InputError(
            f"{checkpoint}: no Vocos can be read from there ({error}); give a hub name, or a folder with {CONFIG_YAML} "
            f"and {WEIGHTS_BIN}"
        ) from error
    return parts, weights
