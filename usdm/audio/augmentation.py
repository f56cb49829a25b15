"""Training sound, differently each time it is read: tempo and pitch, length of the vocal tract, spectrum, room, noise.

In few passes through the frequency domain, since an encoder on a CPU waits for its sound. Sources: speed perturbation
(Ko et al., Interspeech 2015), vocal tract length perturbation (Jaitly and Hinton, 2013); random filters and noise as
in most recipes of speech recognition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from usdm.types import InputError

_FILTER_POINTS = 8  # of the random filter, evenly spaced over the spectrum
_WINDOW = 512  # samples, of the frames whose formants are moved; hop a quarter
_ENVELOPE = 1.9e-3  # s: what repeats faster is the spectrum's envelope, what repeats slower is pitch
_TELEPHONE = 3400.0  # Hz, the highest frequency of a telephone call
_REVERBERATION = (0.1, 0.5)  # s, until it has fallen by 60 dB


@dataclass(frozen=True)
class SoundAugmentation:
    """How far sound may be varied; each recording draws its own.

    Raises:
        InputError: `speed` or `formants` outside 0..0.5, or a share outside 0..1.
    """

    speed: float = 0.0  # up to this share faster and higher, or slower and lower
    formants: float = 0.0  # up to this share higher or lower, pitch untouched: a shorter or longer vocal tract
    filter_decibels: float = 0.0  # a smooth random filter between plus and minus this
    noise_share: float = 0.0  # of recordings that get noise of a random colour
    quietest_signal_to_noise: float = 8.0  # dB; the clearest is 40
    telephone_share: float = 0.0  # of recordings without what lies above 3,400 Hz
    room_share: float = 0.0  # of recordings that reverberate, 0.1 to 0.5 s long

    def __post_init__(self) -> None:
        for name in ("speed", "formants"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise InputError(f"{name}={getattr(self, name)}: give a share from 0 to 0.5")
        for name in ("noise_share", "telephone_share", "room_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: give a share from 0 to 1")

    def vary(self, samples: Tensor, sample_rate: int, random: np.random.Generator) -> tuple[Tensor, float]:
        """(T,) float32 -> (T',) float32 and its speed: what lay at second t now lies at t / speed."""
        if self.formants:
            samples = shift_formants(samples, sample_rate, 1 + random.uniform(-self.formants, self.formants))
        length = max(2, round(len(samples) / (1 + random.uniform(-self.speed, self.speed))))
        speed = len(samples) / length
        spectrum = torch.fft.rfft(samples)
        resampled = torch.zeros(length // 2 + 1, dtype=spectrum.dtype)
        kept = min(len(spectrum), len(resampled))
        resampled[:kept] = spectrum[:kept] / speed
        frequencies = torch.linspace(0, 1, len(resampled)) * (sample_rate / 2)
        resampled *= torch.from_numpy(self._filter(frequencies.numpy(), sample_rate, random))
        if self.room_share and random.random() < self.room_share:
            response = torch.from_numpy(room_response(random.uniform(*_REVERBERATION), sample_rate, random)[:length])
            resampled *= torch.fft.rfft(response, length)  # what outlasts the recording falls on its beginning
        if random.random() < self.noise_share:
            resampled += self._noise(resampled, random)
        return torch.fft.irfft(resampled, length), speed

    def _filter(
        self, frequencies: NDArray[np.float32], sample_rate: int, random: np.random.Generator
    ) -> NDArray[np.float32]:
        points = random.uniform(-self.filter_decibels, self.filter_decibels, _FILTER_POINTS)
        decibels = np.interp(frequencies, np.linspace(0, sample_rate / 2, _FILTER_POINTS), points)
        if random.random() < self.telephone_share:
            decibels = np.where(frequencies > _TELEPHONE, decibels - 60, decibels)
        return (10 ** (decibels / 20)).astype(np.float32)

    def _noise(self, spectrum: Tensor, random: np.random.Generator) -> Tensor:
        """Power that falls as 1 / f ** colour, at a random distance below the speech."""
        colour, distance = random.uniform(0, 2), random.uniform(self.quietest_signal_to_noise, 40)
        noise = torch.from_numpy(random.standard_normal((len(spectrum), 2)).astype(np.float32))
        shaped = torch.view_as_complex(noise) / torch.arange(len(spectrum)).clamp(min=1) ** (colour / 2)
        shaped[0] = 0  # an offset is not heard
        power = spectrum.abs().square().mean() / shaped.abs().square().mean()
        return shaped * power.sqrt() * 10 ** (-distance / 20)


def room_response(seconds: float, sample_rate: int, random: np.random.Generator) -> NDArray[np.float32]:
    """(seconds * sample_rate,) impulse response: a direct path and a tail of noise that falls by 60 dB in `seconds`."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    response = random.standard_normal(len(time)) * 10 ** (-3 * time / seconds) * 0.03
    response[0] = 1.0
    return response.astype(np.float32)


def shift_formants(samples: Tensor, sample_rate: int, ratio: float) -> Tensor:
    """(T,) -> (T,): the envelope of each frame's spectrum stretched by `ratio`, its fine structure left alone."""
    window = torch.hann_window(_WINDOW)
    spectrum = torch.stft(samples, _WINDOW, _WINDOW // 4, window=window, return_complex=True, pad_mode="constant")
    cepstrum = torch.fft.irfft((spectrum.abs() + 1e-5).log(), dim=0)  # (_WINDOW, frames), symmetric
    kept = round(_ENVELOPE * sample_rate)
    cepstrum[kept : _WINDOW - kept + 1] = 0
    envelope = torch.fft.rfft(cepstrum, dim=0).real
    places = (torch.arange(len(envelope)) / ratio).clamp(max=len(envelope) - 1)
    below = places.long().clamp(max=len(envelope) - 2)
    share = (places - below)[:, None]
    moved = envelope[below] * (1 - share) + envelope[below + 1] * share
    gain = (moved - envelope).clamp(-3, 3).exp()
    return torch.istft(spectrum * gain, _WINDOW, _WINDOW // 4, window=window, length=len(samples))
