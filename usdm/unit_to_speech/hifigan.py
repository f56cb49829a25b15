"""Unit HiFi-GAN: embedded units straight to sound, in the one voice that it was trained on.

The usual decoder of textless speech models (Polyak et al., arXiv 2104.00355). Units without repeats, as those models
write them, get their lengths from a duration predictor (arXiv 2107.05604, section 3.3). The generator is that of
`transformers.SpeechT5HifiGan`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from usdm.checkpoint import CONFIG_FILE, fill, read_config, read_weights, save_folder
from usdm.types import InputError, ReferenceVoice
from usdm.unit_to_speech.protocol import UNIT_HIFIGAN, DecoderSampling, Synthesis, UnitToSpeech, refuse_voices

LONGEST_UNIT = 50  # repeats that a predicted duration has at most


@dataclass(frozen=True)
class UnitHifiGanConfig:
    """`config.json`, key by key."""

    num_units: int  # K
    unit_rate: int = 50  # Hz
    sample_rate: int = 16_000  # Hz; unit_rate times the product of upsample_rates
    embedding_dim: int = 128
    upsample_initial_channel: int = 512
    upsample_rates: tuple[int, ...] = (5, 4, 4, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (11, 8, 8, 4, 4)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    leaky_relu_slope: float = 0.1
    predict_durations: bool = False  # repeats are taken away, and each unit's length is predicted

    def __post_init__(self) -> None:
        made, wanted = self.unit_rate * math.prod(self.upsample_rates), self.sample_rate
        if made != wanted:
            raise InputError(
                f"upsample_rates={list(self.upsample_rates)} make {made} samples of {self.unit_rate} units, a second "
                f"of sample_rate={wanted} has {wanted}: give rates whose product is {wanted / self.unit_rate:g}"
            )
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            if (kernel - rate) % 2 or kernel < rate:
                raise InputError(
                    f"a kernel of {kernel} for an upsampling by {rate}: give one that is larger by an even number"
                )

    @classmethod
    def load(cls, folder: str | Path) -> UnitHifiGanConfig:
        """`config.json` in `folder`. Raises InputError if it is missing or wrong."""
        values = read_config(folder)
        values.pop("model_type", None)
        for name in ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "resblock_dilation_sizes"):
            if name in values:
                values[name] = tuple(tuple(each) if isinstance(each, list) else each for each in values[name])
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"{Path(folder) / CONFIG_FILE}: not a unit HiFi-GAN's configuration ({error})") from error


class DurationPredictor(nn.Module):
    """(B, n, D) embedded units -> (B, n) logarithms of 1 + their repeats."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.out = nn.Linear(dim, 1)

    def forward(self, embedded: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            embedded = norm(functional.relu(conv(embedded.transpose(1, 2))).transpose(1, 2))
        logs: Tensor = self.out(embedded)[..., 0]
        return logs


class UnitHifiGan(UnitToSpeech):
    """See the module. Raises InputError for a configuration that does not fit together."""

    def __init__(self, config: UnitHifiGanConfig) -> None:
        from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig  # takes seconds to import

        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.num_units, config.embedding_dim)
        self.durations = DurationPredictor(config.embedding_dim) if config.predict_durations else None
        self.generator = SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                model_in_dim=config.embedding_dim,
                sampling_rate=config.sample_rate,
                upsample_initial_channel=config.upsample_initial_channel,
                upsample_rates=config.upsample_rates,
                upsample_kernel_sizes=config.upsample_kernel_sizes,
                resblock_kernel_sizes=config.resblock_kernel_sizes,
                resblock_dilation_sizes=config.resblock_dilation_sizes,
                leaky_relu_slope=config.leaky_relu_slope,
                normalize_before=False,
            )
        )

    @property
    def num_units(self) -> int:
        return self.config.num_units

    @property
    def unit_rate(self) -> float:
        return self.config.unit_rate

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def samples_per_unit(self) -> int:
        return math.prod(self.config.upsample_rates)

    @torch.inference_mode()
    def forward(
        self,
        units: Sequence[Tensor],
        voices: Sequence[ReferenceVoice | None],
        seeds: Sequence[int],
        sampling: DecoderSampling,
    ) -> Synthesis:
        """As `UnitToSpeech.forward`. Nothing is drawn."""
        refuse_voices(self, voices)
        start = time.perf_counter()
        for row in units:
            self.check_units(row)
        sounds = [self.sound(self.lengthened(row.to(self.device))[None])[0].float().cpu() for row in units]
        return Synthesis(sounds, {"decode": time.perf_counter() - start})

    def sound(self, units: Tensor) -> Tensor:
        """(B, U) units, each as long as it is -> (B, U * samples_per_unit)."""
        sound: Tensor = self.generator(self.embedding(units))
        return sound

    def lengthened(self, units: Tensor) -> Tensor:
        """(U,) -> (V,): without repeats, and then each as often as it is predicted; the same where none is."""
        if self.durations is None:
            return units
        single = units.unique_consecutive()
        logs = self.durations(self.embedding(single)[None])[0]
        repeats = (logs.exp() - 1).round().clamp(1, LONGEST_UNIT).long()
        return single.repeat_interleave(repeats)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> UnitHifiGan:
        model = cls(UnitHifiGanConfig.load(folder))
        fill(model, read_weights(folder), folder)
        return model.eval()

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write `config.json` and `model.safetensors`."""
        save_folder(folder, {"model_type": UNIT_HIFIGAN, **asdict(self.config)}, self, dtype)
