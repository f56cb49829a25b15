"""Sounds of outliers, small enough to lie inside a page."""

from __future__ import annotations

import base64
import io

import soundfile

from usdm.audio import read_audio
from usdm.inspection.corpus import Outlier

CLIP_SECONDS = 10.0
CLIP_RATE = 16_000  # Hz


def clip(outlier: Outlier) -> str:
    """The first 10 s at 16 kHz as the address of an <audio> element (FLAC, base64).

    Raises InputError if the sound cannot be read.
    """
    seconds = min(CLIP_SECONDS, outlier.duration) if outlier.duration > 0 else CLIP_SECONDS
    sound = read_audio(outlier.audio, CLIP_RATE, start=outlier.start or 0.0, seconds=seconds, channel=outlier.channel)
    file = io.BytesIO()
    soundfile.write(file, sound.samples.numpy(), sound.sample_rate, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode("ascii")
