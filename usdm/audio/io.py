"""Checking, resampling and writing sound. Inside the system all of it is mono float32 in [-1, 1]."""

from __future__ import annotations

import io
import logging
import os
import tempfile
from fractions import Fraction
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample as sinc_resample

from usdm.types import InputError, Waveform

logger = logging.getLogger(__name__)

LOWEST_SAMPLE_RATE = 4_000  # Hz; below this no speech is left
HIGHEST_SAMPLE_RATE = 384_000  # Hz
SHORTEST_SPEECH = 0.1  # seconds
SILENCE_PEAK = -60.0  # dBFS; a recording that never rises above this is silence
PCM16_FULL_SCALE = 32767


def resample(samples: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Windowed-sinc resampling: (..., T) at `from_hz` -> (..., ceil(T * to_hz / from_hz)) at `to_hz`."""
    if from_hz == to_hz:
        return samples
    ratio = resampling_ratio(from_hz, to_hz)
    return sinc_resample(samples, ratio.denominator, ratio.numerator)


def resampling_ratio(from_hz: int, to_hz: int) -> Fraction:
    """Samples after for samples before, in terms of at most 1,000: exact for every usual rate, within 1e-6 for odd
    ones such as 44,099 Hz. The filter bank grows with the product of the two terms."""
    return Fraction(to_hz, from_hz).limit_denominator(1000)


def check_speech(waveform: Waveform) -> None:
    """Raises InputError for sound in which nobody can have spoken: shorter than 0.1 s, or silent."""
    if waveform.seconds < SHORTEST_SPEECH:
        raise InputError(
            f"the recording lasts {waveform.seconds:.3f} s; speech must last at least {SHORTEST_SPEECH:g} s, "
            "so record it again"
        )
    peak = 20 * torch.log10(waveform.samples.abs().max().clamp_min(1e-10)).item()
    if peak < SILENCE_PEAK:
        raise InputError(
            f"the recording is silent: it peaks at {peak:.0f} dBFS, below {SILENCE_PEAK:.0f} dBFS; "
            "check the microphone and record it again"
        )


def check_output_path(path: str | Path, suffix: str = ".wav") -> Path:
    """The path, if a file could be written there; asked before long work begins. Raises InputError."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: the file name must end in {suffix}, the only format written here")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the path of a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it or choose another one")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: the folder {path.parent} cannot be written to; choose another one")
    return path


def write_audio(path: str | Path, samples: Tensor, sample_rate: int) -> None:
    """Write `samples` (T,) as 16-bit PCM WAV, whole or not at all (temporary file, then rename).

    Sound above full scale is scaled down to it, with a warning. Raises InputError for a path that cannot be
    written or samples that are not finite.
    """
    path = check_output_path(path)
    samples = samples.detach().float().cpu()
    if samples.dim() != 1 or not torch.isfinite(samples).all():
        raise InputError(f"{path}: not written, samples of shape {tuple(samples.shape)} must be (T,) and finite")
    if samples.numel() and (peak := samples.abs().max().item()) > 1.0:
        logger.warning("%s would clip at %.3g: scaled down to full scale", path, peak)
        samples = samples / peak
    pcm = (samples * PCM16_FULL_SCALE).round().to(torch.int16).numpy()
    encoded = io.BytesIO()  # soundfile would not say that a disk is full
    soundfile.write(encoded, pcm, sample_rate, format="WAV", subtype="PCM_16")
    part = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = file.name
            file.write(encoded.getbuffer())
        os.chmod(part, 0o644)  # temporary files are private; a result is not
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); choose another place") from error
    finally:
        if part is not None and os.path.exists(part):
            os.unlink(part)
