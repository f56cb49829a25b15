"""The log-mel spectrogram of HiFi-GAN and BigVGAN: what the decoder predicts and the vocoders read.

Frames are not centred: the sound is reflected by (n_fft - hop_length) / 2 at both ends, so that T samples
give exactly T // hop_length frames, and M frames stand for M * hop_length samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from usdm.types import InputError


@dataclass(frozen=True)
class MelSettings:
    """Defaults are the published system's (BigVGAN 22 kHz, 80 bands)."""

    sample_rate: int = 22_050  # Hz
    n_fft: int = 1024  # samples
    hop_length: int = 256  # samples
    win_length: int = 1024  # samples
    num_mels: int = 80
    f_min: float = 0.0  # Hz
    f_max: float = 8_000.0  # Hz
    floor: float = 1e-5  # magnitudes below are raised to it before the logarithm

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop_length


class MelSpectrogram(nn.Module):
    """Natural-log magnitude mel spectrogram with Slaney's mel scale and area normalisation."""

    filters: Tensor  # (mels, bins)
    window: Tensor  # (win_length,)

    def __init__(self, settings: MelSettings = MelSettings()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.settings = settings
        filters = melscale_fbanks(
            settings.n_fft // 2 + 1,
            settings.f_min,
            settings.f_max,
            settings.num_mels,
            settings.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(settings.win_length), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """(B, T) in [-1, 1] at `settings.sample_rate` -> (B, num_mels, T // hop_length).

        Raises InputError for sound too short to be reflected at its ends.
        """
        s = self.settings
        padding = (s.n_fft - s.hop_length) // 2
        if samples.shape[-1] <= padding:
            raise InputError(
                f"{samples.shape[-1]} samples are too few for a spectrogram: it takes at least {padding + 1}"
            )
        padded = nn.functional.pad(samples[:, None], (padding, padding), mode="reflect")[:, 0]
        spectrum = torch.stft(
            padded, s.n_fft, s.hop_length, s.win_length, self.window, center=False, return_complex=True
        )
        # The small constant keeps the gradient of the root finite where there is no sound.
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        return (self.filters @ magnitude).clamp_min(s.floor).log()
