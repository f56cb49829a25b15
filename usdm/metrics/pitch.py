"""How far the melody of speech is from a recording's: fundamental frequency by pYIN (package librosa)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usdm.audio import resample
from usdm.types import InputError, Waveform

SAMPLE_RATE = 16_000  # Hz
HOP = 160  # samples
LOWEST, HIGHEST = 60.0, 500.0  # Hz, of speech


@dataclass(frozen=True)
class PitchDistance:
    """Of two recordings of the same words at the same times."""

    semitones: float | None  # root mean square where both are voiced; None where they never are
    voicing: float  # share of frames in which one is voiced and the other not


def pitch(waveform: Waveform) -> NDArray[np.float64]:
    """(frames of 10 ms,) fundamental frequency in Hz, NaN where there is no voice.

    Raises InputError where librosa is not installed.
    """
    try:
        import librosa
    except ImportError as error:
        raise InputError(f"pitch needs the package librosa ({error}): pip install 'usdm[evaluate]'") from error
    samples = resample(waveform.samples.detach().float().cpu(), waveform.sample_rate, SAMPLE_RATE).numpy()
    found: NDArray[np.float64]
    found, _, _ = librosa.pyin(
        samples, fmin=LOWEST, fmax=HIGHEST, sr=SAMPLE_RATE, frame_length=1024, hop_length=HOP, resolution=0.2
    )
    return found


def pitch_distance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> PitchDistance:
    """Frames beyond the shorter one's end are left out."""
    length = min(len(ours), len(theirs))
    ours, theirs = ours[:length], theirs[:length]
    voiced = ~np.isnan(ours), ~np.isnan(theirs)
    both = voiced[0] & voiced[1]
    off = 12 * np.log2(ours[both] / theirs[both])
    return PitchDistance(
        semitones=float(np.sqrt(np.mean(np.square(off)))) if both.any() else None,
        voicing=float(np.mean(voiced[0] != voiced[1])) if length else 0.0,
    )
