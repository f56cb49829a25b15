"""Acoustic units: the codes of a neural codec (EnCodec, Mimi, DAC, X-Codec 2), which it also turns back into sound.

Semantic units say what is spoken, acoustic units how it sounds as well (AudioLM, arXiv 2209.03143); the paper's units
are semantic. Models are those of `transformers`, and read the weights of the hub: facebook/encodec_24khz,
kyutai/mimi, descript/dac_16khz, HKUSTAudio/xcodec2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from usdm.checkpoint import CLASS_KEY, make_readable
from usdm.runs import split_revision
from usdm.types import InputError
from usdm.units.codebooks import CodebookLayout, Layout
from usdm.units.hub import UNREADABLE, quiet
from usdm.units.tokenizer import SETTINGS_FILE, UnitTokenizer, class_name, read_settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class CodecSettings:
    """Which codes of a codec are units, and in which order."""

    layout: Layout = "flattened"
    codebooks: int = 1  # Q, the coarsest ones


@dataclass(frozen=True)
class CodecKind:
    """What differs between the codecs of `transformers`."""

    codebooks: Callable[[PreTrainedConfig], int]
    codebook_size: Callable[[PreTrainedConfig], int]
    hop: Callable[[PreTrainedConfig], int]  # samples of a frame
    encode: Callable[[PreTrainedModel, Tensor, int], Tensor]  # (B, 1, T) and Q -> (B, Q or more, frames)
    decode: Callable[[PreTrainedModel, Tensor], Tensor]  # (B, Q, frames) -> (B, 1, T)


class CodecTokenizer(UnitTokenizer):
    """A codec's codes as units, and back to sound.

    Raises InputError for a model that is no codec, is not mono, works in chunks, or has fewer codebooks than
    `settings` wants.
    """

    def __init__(self, codec: PreTrainedModel, settings: CodecSettings) -> None:
        super().__init__()
        self.settings = settings
        self.codec = codec.eval()
        self._kind = codec_kind(codec.config)
        available = self._kind.codebooks(codec.config)
        if settings.codebooks > available:
            raise InputError(
                f"codebooks={settings.codebooks}: this {codec.config.model_type} has {available}; take no more of them"
            )
        self.codebooks = CodebookLayout(settings.layout, settings.codebooks, self._kind.codebook_size(codec.config))

    @property
    def num_units(self) -> int:
        return self.codebooks.num_units

    @property
    def frame_rate(self) -> float:
        """Hz. A frame has a code of each codebook."""
        return whole(self.sample_rate / self.hop)

    @property
    def unit_rate(self) -> float:
        return whole(self.frame_rate * self.units_per_frame)

    @property
    def units_per_frame(self) -> int:
        return self.codebooks.units_per_frame

    @property
    def sample_rate(self) -> int:
        return int(self.codec.config.sampling_rate)

    @property
    def device(self) -> torch.device:
        return self.codec.device

    @cached_property
    def identity(self) -> str:
        """Of the weights and the settings."""
        hashed = hashlib.sha256(json.dumps(asdict(self.settings), sort_keys=True).encode())
        for name, tensor in sorted(self.codec.state_dict().items()):
            hashed.update(name.encode())
            hashed.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return hashed.hexdigest()[:16]

    @torch.inference_mode()
    def forward(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Units of each waveform; a last frame is filled up with silence. See `UnitTokenizer.forward`.

        Waveforms of equally many frames go through the codec together: padding would change the units of the others.
        """
        framed = [self._framed(waveform) for waveform in waveforms]
        units: dict[int, Tensor] = {}
        by_length = sorted(range(len(framed)), key=lambda row: len(framed[row]))
        for _, group in groupby(by_length, key=lambda row: len(framed[row])):
            rows = list(group)
            batch = torch.stack([framed[row] for row in rows])[:, None].to(self.device)
            codes = self._kind.encode(self.codec, batch, self.settings.codebooks)[:, : self.settings.codebooks]
            units |= {row: self.codebooks.units(own).cpu() for row, own in zip(rows, codes, strict=True)}
        return [units[row] for row in range(len(waveforms))]

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return self._kind.hop(self.codec.config)

    def decode(self, units: Tensor) -> Tensor:
        """(U,) units -> (T,) float32 sound at `sample_rate`; T is 0 where there is no whole frame.

        Raises InputError for units that this tokenizer does not have.
        """
        return self.decode_frames(self.frames(units))

    def frames(self, units: Tensor) -> Tensor:
        """(U,) units -> (Q, F) codes of whole frames. Raises InputError for units that this tokenizer does not have."""
        if len(units) and not 0 <= int(units.min()) <= int(units.max()) < self.num_units:
            raise InputError(
                f"units {int(units.min())}..{int(units.max())}: this codec's are 0..{self.num_units - 1}; take the "
                "units of the same tokenizer"
            )
        return self.codebooks.frames(units)

    @torch.inference_mode()
    def decode_frames(self, codes: Tensor) -> Tensor:
        """(Q, F) codes -> (F * hop,) float32 sound."""
        if not codes.shape[1]:
            return torch.zeros(0)
        sound = self._kind.decode(self.codec, codes[None].to(self.device))[0, 0].float().cpu()
        lasts = codes.shape[1] * self.hop
        return functional.pad(sound[:lasts], (0, max(0, lasts - len(sound))))  # DAC loses some at odd strides

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CodecTokenizer:
        values = read_settings(folder)
        values.pop(CLASS_KEY, None)
        try:
            settings = CodecSettings(**values)
        except TypeError as error:
            raise InputError(f"{Path(folder) / SETTINGS_FILE} does not hold a codec's settings: {error}") from error
        return cls(load_codec(folder), settings)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the codec in transformers' layout, and `units.json` last: a folder that has it is complete."""
        folder = Path(folder)
        self.codec.save_pretrained(folder)
        make_readable(folder)
        values = {CLASS_KEY: class_name(type(self)), **asdict(self.settings)}
        (folder / SETTINGS_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def _framed(self, waveform: Tensor) -> Tensor:
        """(T,) -> (frames * hop,). Raises InputError for what is not mono, or empty."""
        if waveform.dim() != 1 or not len(waveform):
            raise InputError(f"A waveform of shape {tuple(waveform.shape)}: give mono samples of shape (T,), T > 0.")
        return functional.pad(waveform.float().cpu(), (0, -len(waveform) % self.hop))


def make_codec_tokenizer(checkpoint: str | Path, output_dir: str | Path, settings: CodecSettings) -> CodecTokenizer:
    """A codec of the hub, or of a local folder, as a unit tokenizer in `output_dir`.

    Raises InputError if it cannot be had, or as `CodecTokenizer` does.
    """
    tokenizer = CodecTokenizer(load_codec(checkpoint), settings)
    tokenizer.save_pretrained(output_dir)
    return tokenizer


def load_codec(name: str | Path) -> PreTrainedModel:
    """A hub name or a local folder. Raises InputError if it cannot be had or read, or is no codec."""
    from transformers import AutoConfig, AutoModel

    try:
        with quiet():
            repository, revision = split_revision(name)
            config = AutoConfig.from_pretrained(repository, revision=revision)
            codec_kind(config)
            model: PreTrainedModel = AutoModel.from_pretrained(
                repository, revision=revision, dtype=torch.float32, use_safetensors=True
            )
    except UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: no codec can be read from there ({error}); give a hub name or a folder") from error
    return model


def codec_kind(config: PreTrainedConfig) -> CodecKind:
    """Raises InputError for a model that is none of the known codecs, or that these units cannot come from."""
    kind = KINDS.get(config.model_type)
    if kind is None:
        raise InputError(f"model_type {config.model_type!r} is none of the codecs {', '.join(KINDS)}; give one of them")
    if getattr(config, "audio_channels", 1) != 1 or getattr(config, "chunk_length_s", None) or _normalises(config):
        raise InputError(
            f"this {config.model_type} codes {config.audio_channels} channels, in chunks or at a level of their own; "
            "give a mono codec of whole waveforms, such as facebook/encodec_24khz"
        )
    return kind


def whole(rate: float) -> float:
    """A rate as an integer where it is one, since it is stored and compared."""
    return int(rate) if rate == int(rate) else rate


def _normalises(config: PreTrainedConfig) -> bool:
    return config.model_type == "encodec" and bool(config.normalize)


def _encodec_codes(model: Any, sound: Tensor, codebooks: int) -> Tensor:
    bits = model.config.frame_rate * model.config.codebook_nbits * codebooks / 1000  # kbit/s
    enough = min(bandwidth for bandwidth in model.config.target_bandwidths if bandwidth >= bits - 1e-6)
    codes: Tensor = model.encode(sound, bandwidth=enough).audio_codes[0]
    return codes


def _xcodec2_codes(model: Any, sound: Tensor, codebooks: int) -> Tensor:
    from transformers import Xcodec2FeatureExtractor

    hop = model.config.hop_length
    features = Xcodec2FeatureExtractor(sampling_rate=model.config.sampling_rate, hop_length=hop)
    # It adds a sample before it fills up frames, so that whole frames would become one more: it gets one sample less.
    inputs = features(
        [row[0, :-1].cpu().numpy() for row in sound], sampling_rate=model.config.sampling_rate, return_tensors="pt"
    )
    codes: Tensor = model.encode(sound, inputs["input_features"].to(sound.device)).audio_codes
    return codes


KINDS = {
    "encodec": CodecKind(
        codebooks=lambda config: config.num_quantizers,
        codebook_size=lambda config: config.codebook_size,
        hop=lambda config: config.hop_length,
        encode=_encodec_codes,
        decode=lambda model, codes: model.decode(codes[None], [None]).audio_values,
    ),
    "mimi": CodecKind(
        codebooks=lambda config: config.num_quantizers,
        codebook_size=lambda config: config.codebook_size,
        hop=lambda config: round(config.sampling_rate / config.frame_rate),
        encode=lambda model, sound, codebooks: model.encode(sound, num_quantizers=codebooks).audio_codes,
        decode=lambda model, codes: model.decode(codes).audio_values,
    ),
    "dac": CodecKind(
        codebooks=lambda config: config.n_codebooks,
        codebook_size=lambda config: config.codebook_size,
        hop=lambda config: config.hop_length,
        encode=lambda model, sound, codebooks: model.encode(sound, n_quantizers=codebooks).audio_codes,
        decode=lambda model, codes: model.decode(audio_codes=codes).audio_values.view(len(codes), 1, -1),
    ),
    "xcodec2": CodecKind(
        codebooks=lambda config: 1,
        codebook_size=lambda config: prod(config.quantization_levels),
        hop=lambda config: config.hop_length,
        encode=_xcodec2_codes,
        decode=lambda model, codes: model.decode(audio_codes=codes).audio_values,
    ),
}
