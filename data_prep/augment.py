"""Variation of user speech: speed (which moves pitch and formants too), rooms, noise, loudness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torchaudio

from usdm.audio.augmentation import room_response

SAMPLE_RATE = 16_000  # Hz, of everything in a synthesised corpus


@dataclass(frozen=True)
class Variation:
    """One draw of how a recording differs from the clean synthesiser."""

    speed: float  # 1.1: ten per cent faster and higher
    reverberation: float  # seconds to fall by 60 dB; 0: none
    signal_to_noise: float  # dB; infinite: none
    noise_colour: float  # 0 white, 1 pink, 2 brown
    peak: float  # of full scale


def draw_variation(random: np.random.Generator) -> Variation:
    return Variation(
        speed=float(random.uniform(0.84, 1.2)),
        reverberation=float(random.uniform(0.1, 0.45)) if random.random() < 0.3 else 0.0,
        signal_to_noise=float(random.uniform(12, 40)) if random.random() < 0.6 else float("inf"),
        noise_colour=float(random.uniform(0, 2)),
        peak=float(random.uniform(0.15, 0.9)),
    )


def at_rate(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """(T,) int16 at any rate to (T',) float32 at 16 kHz."""
    sound = torch.from_numpy(samples.astype(np.float32) / 32768)
    return torchaudio.functional.resample(sound, sample_rate, SAMPLE_RATE).numpy()


def vary(samples: np.ndarray, sample_rate: int, variation: Variation, random: np.random.Generator) -> np.ndarray:
    """(T,) int16 at any rate to (T',) float32 at 16 kHz; times in it shrink by `variation.speed`."""
    speech = torch.from_numpy(samples.astype(np.float32) / 32768)
    # A recording at rate r read as if it were at r * speed is faster and higher by `speed`.
    source = round(sample_rate * variation.speed / 50) * 50  # a round rate keeps the resampling kernel small
    sound = torchaudio.functional.resample(speech, source, SAMPLE_RATE).numpy()
    if variation.reverberation:
        sound = _reverberate(sound, variation.reverberation, random)
    sound = sound * (variation.peak / max(float(np.abs(sound).max()), 1e-6))
    if np.isfinite(variation.signal_to_noise):
        sound = sound + _noise(sound, variation, random)
    return np.clip(sound, -1, 1).astype(np.float32)


def _reverberate(sound: np.ndarray, seconds: float, random: np.random.Generator) -> np.ndarray:
    """As in a room, cut to the length of the speech."""
    response = room_response(seconds, SAMPLE_RATE, random)
    size = len(sound) + len(response)
    return np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)[: len(sound)]


def draw_noise(random: np.random.Generator) -> np.ndarray:
    """(T,) int16 at 16 kHz, 0.6 to 4 s: noise of a random colour, steady or swelling, sometimes with clicks."""
    length = int(random.uniform(0.6, 4.0) * SAMPLE_RATE)
    noise = coloured_noise(length, float(random.uniform(0, 2)), random)
    if random.random() < 0.5:
        knots = random.uniform(0.05, 1.0, max(2, length * 4 // SAMPLE_RATE))  # four a second
        noise = noise * np.interp(np.arange(length), np.linspace(0, length, len(knots)), knots)
    if random.random() < 0.3:
        clicks = random.integers(0, length, max(1, length // SAMPLE_RATE))
        noise[clicks] += np.abs(noise).max() * random.uniform(-4, 4, len(clicks))
    return (noise / np.abs(noise).max() * 32767).astype(np.int16)


def _noise(sound: np.ndarray, variation: Variation, random: np.random.Generator) -> np.ndarray:
    """At the wanted distance below the speech."""
    noise = coloured_noise(len(sound), variation.noise_colour, random)
    scale = np.sqrt(np.mean(sound**2) / np.mean(noise**2)) * 10 ** (-variation.signal_to_noise / 20)
    return noise * scale


def coloured_noise(length: int, colour: float, random: np.random.Generator) -> np.ndarray:
    """(length,) noise whose power falls as 1 / f ** colour."""
    spectrum = np.fft.rfft(random.standard_normal(length))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1) ** (colour / 2)
    return np.fft.irfft(spectrum, length)
