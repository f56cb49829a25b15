"""Unit HiFi-GAN: embedded units straight to sound, in the one voice that it was trained on.

The usual decoder of textless speech models (Polyak et al., arXiv 2104.00355). Units without repeats, as those models
write them, get their lengths from a duration predictor (arXiv 2107.05604, section 3.3). The generator is that of
`transformers.SpeechT5HifiGan`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from usdm.checkpoint import CONFIG_FILE, fill, read_config, read_weights, save_folder
from usdm.types import InputError, ReferenceVoice
from usdm.unit_to_speech.protocol import UNIT_HIFIGAN, DecoderSampling, OneVoice, refuse_voices
from usdm.unit_to_speech.windows import Context, Convolution, WindowStream, context_of

LONGEST_UNIT = 50  # repeats that a predicted duration has at most
END_KERNEL = 7  # of the generator's first and last convolution
DURATION_KERNEL, DURATION_LAYERS = 3, 2


@dataclass(frozen=True)
class UnitHifiGanConfig:
    """`config.json`, key by key."""

    num_units: int  # K
    unit_rate: float = 50  # Hz
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
                f"upsample_rates={list(self.upsample_rates)} make {made:g} samples of {self.unit_rate} units, a second "
                f"of sample_rate={wanted} has {wanted}: give rates whose product is {wanted / self.unit_rate:g}"
            )
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            if (kernel - rate) % 2 or kernel < rate:
                raise InputError(
                    f"a kernel of {kernel} for an upsampling by {rate}: give one that is larger by an even number"
                )

    @property
    def context(self) -> Context:
        """Units around one, beyond which nothing changes its samples."""
        layers = [Convolution(END_KERNEL)]
        sizes = zip(self.resblock_kernel_sizes, self.resblock_dilation_sizes, strict=True)
        blocks = [[Convolution(k, d) for d in dilations for d in (d, 1)] for k, dilations in sizes]
        widest = max(blocks, key=lambda block: context_of(block).right)
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            layers += [Convolution(kernel, upsampling=rate), *widest]
        return context_of([*layers, Convolution(END_KERNEL)])

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
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, DURATION_KERNEL, padding=1) for _ in range(DURATION_LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(DURATION_LAYERS))
        self.out = nn.Linear(dim, 1)

    def forward(self, embedded: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            embedded = norm(functional.relu(conv(embedded.transpose(1, 2))).transpose(1, 2))
        logs: Tensor = self.out(embedded)[..., 0]
        return logs


class UnitHifiGan(OneVoice):
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

    def speak(self, units: Tensor) -> Tensor:
        """See `OneVoice`."""
        return self.sound(self.lengthened(units.to(self.device))[None])[0].float().cpu()

    def sound(self, units: Tensor) -> Tensor:
        """(B, U) units, each as long as it is -> (B, U * samples_per_unit)."""
        sound: Tensor = self.generator(self.embedding(units))
        return sound

    def lengthened(self, units: Tensor) -> Tensor:
        """(U,) -> (V,): without repeats, and then each as often as it is predicted; the same where none is."""
        if self.durations is None:
            return units
        single = units.unique_consecutive()
        return single.repeat_interleave(self.repeats(single))

    def repeats(self, single: Tensor) -> Tensor:
        """(n,) units without repeats -> (n,) int64, how often each is to be said."""
        assert self.durations is not None
        logs = self.durations(self.embedding(single)[None])[0]
        return (logs.exp() - 1).round().clamp(1, LONGEST_UNIT).long()

    def stream(self, voice: ReferenceVoice | None, seed: int, sampling: DecoderSampling) -> UnitHifiGanStream:
        refuse_voices(self, [voice])
        return UnitHifiGanStream(self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> UnitHifiGan:
        model = cls(UnitHifiGanConfig.load(folder))
        fill(model, read_weights(folder), folder)
        return model.eval()

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write `config.json` and `model.safetensors`."""
        save_folder(folder, {"model_type": UNIT_HIFIGAN, **asdict(self.config)}, self, dtype)


class UnitHifiGanStream:
    """Sound as soon as no later unit can change it: the same as of all units at once."""

    def __init__(self, model: UnitHifiGan) -> None:
        self._model = model
        rate, context = model.unit_rate, model.config.context
        self._window = WindowStream(self._decode, model.samples_per_unit, rate, context)
        self._single = torch.empty(0, dtype=torch.int64)  # without repeats, where their lengths are predicted
        self._given = 0  # of those, how many the window has
        self.timings = self._window.timings

    @torch.inference_mode()
    def push(self, units: Tensor) -> Tensor:
        if len(units):
            self._model.check_units(units)
        return self._window.push(self._lengthened(units.cpu(), DURATION_LAYERS * (DURATION_KERNEL // 2)))

    @torch.inference_mode()
    def finish(self) -> Tensor:
        rest = self._window.push(self._lengthened(torch.empty(0, dtype=torch.int64), 0))
        return torch.cat([rest, self._window.finish()])

    def _decode(self, units: Tensor) -> Tensor:
        return self._model.sound(units.to(self._model.device)[None])[0].float().cpu()

    def _lengthened(self, units: Tensor, waiting: int) -> Tensor:
        """The units that came, each as long as it is; those whose length the last `waiting` ones may change, later."""
        if self._model.durations is None:
            return units
        self._single = torch.cat([self._single, units]).unique_consecutive()
        end = max(self._given, len(self._single) - waiting)
        if end == self._given:
            return torch.empty(0, dtype=torch.int64)
        repeats = self._model.repeats(self._single.to(self._model.device)).cpu()
        new = slice(self._given, end)
        self._given = end
        return self._single[new].repeat_interleave(repeats[new])
