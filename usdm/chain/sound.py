"""Whatever a caller holds as sound, as mono float32 at a known rate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from usdm.audio import check_speech, mix_down
from usdm.audio.io import HIGHEST_SAMPLE_RATE, LOWEST_SAMPLE_RATE
from usdm.types import InputError, Waveform

logger = logging.getLogger(__name__)

Samples = Tensor | np.ndarray | Sequence[float]


@dataclass(frozen=True)
class LengthLimit:
    """How much of a recording a language model has room for."""

    positions: int | None  # of the language model, one for each unit; None is without end
    unit_rate: float  # Hz

    def check(self, seconds: float) -> None:
        """Raises InputError for a recording that has more units than the model positions."""
        if self.positions is not None and seconds > (longest := self.positions / self.unit_rate):
            raise InputError(
                f"the recording lasts {seconds:.1f} s; this model holds {longest:.0f} s at most "
                f"({self.positions} positions, {self.unit_rate} units a second), so cut it"
            )


def speech(samples: Samples, sample_rate: int | None, limit: LengthLimit | None = None) -> Waveform:
    """Sound as microphones, decoders and files give it: (T,), (T, channels) or (channels, T), any real type.

    Integers are taken at their full scale, channels are averaged (see `mix_down`), floats beyond full scale are
    scaled down. Raises InputError for another shape or type, an impossible rate, and sound that can hold no speech:
    empty, silent, too short, or with samples that are not finite; beyond the limit before anything is made of it.
    """
    rate = check_sample_rate(sample_rate)
    given = _tensor(samples)
    if limit is not None:
        limit.check(max(given.shape, default=0) / rate)
    mono = mono_samples(given)
    if mono.numel() and (peak := mono.abs().max().item()) > 1.0:
        logger.warning("the recording peaks at %.3g, above full scale: scaled down to 1", peak)
        mono = mono / peak
    waveform = Waveform(mono, rate)
    check_speech(waveform)
    return waveform


def check_sample_rate(sample_rate: int | None) -> int:
    """Hz. Raises InputError for a rate that no recording has."""
    if sample_rate is None or not LOWEST_SAMPLE_RATE <= sample_rate <= HIGHEST_SAMPLE_RATE:
        raise InputError(
            f"sample_rate={sample_rate}: give the recording's own rate in Hz, "
            f"{LOWEST_SAMPLE_RATE} to {HIGHEST_SAMPLE_RATE}"
        )
    return int(sample_rate)


def mono_samples(samples: Samples) -> Tensor:
    """(T,) float32, full scale at 1. Raises InputError for what is no sound."""
    mono = _one_channel(_full_scale(_tensor(samples)))
    if not torch.isfinite(mono).all():
        raise InputError("the recording has samples that are not finite (NaN, infinity); record it again")
    return mono


def _tensor(samples: Samples) -> Tensor:
    try:
        return torch.as_tensor(samples).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"a recording cannot be made of a {type(samples).__name__} ({error})") from error


def _full_scale(samples: Tensor) -> Tensor:
    """Float32 in [-1, 1]; unsigned 8-bit samples are centred on 128, as in WAV files."""
    if samples.is_floating_point():
        return samples.float()
    if samples.dtype == torch.uint8:
        return (samples.float() - 128) / 128
    if samples.dtype in (torch.int8, torch.int16, torch.int32):
        return samples.float() / -torch.iinfo(samples.dtype).min
    raise InputError(f"samples of type {samples.dtype}: give floats in [-1, 1], int16, int32 or 8-bit integers")


def _one_channel(samples: Tensor) -> Tensor:
    """(T,), (T, channels) or (channels, T) -> (T,); channels are fewer than samples."""
    if samples.dim() == 1:
        return samples
    if samples.dim() == 2 and samples.shape[0] != samples.shape[1]:
        channels = samples if samples.shape[1] < samples.shape[0] else samples.T  # (T, channels)
        return mix_down(channels, lambda note: logger.warning("the recording: %s", note))
    raise InputError(f"samples of shape {tuple(samples.shape)}: give (T,), (T, channels) or (channels, T)")
