"""Audio on the wire: 16-bit PCM at 24 kHz, and G.711 (mu-law and A-law) at 8 kHz."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soundfile
import torch
from torch import Tensor

from usdm.types import InputError

FormatName = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]


@dataclass(frozen=True)
class AudioFormat:
    """One channel without a header."""

    name: FormatName
    sample_rate: int  # Hz
    bytes_per_sample: int
    subtype: str  # libsndfile's name

    def decode(self, data: bytes) -> Tensor:
        """-> (t,) float32. Raises InputError for a part of a sample."""
        if len(data) % self.bytes_per_sample:
            raise InputError(
                f"{len(data)} bytes of {self.name}: a sample has {self.bytes_per_sample}; send whole samples"
            )
        if not data:
            return torch.zeros(0)
        samples, _ = soundfile.read(
            io.BytesIO(data),
            dtype="float32",
            format="RAW",
            subtype=self.subtype,
            samplerate=self.sample_rate,
            channels=1,
            endian="LITTLE",
        )
        return torch.from_numpy(samples)

    def encode(self, samples: Tensor) -> bytes:
        """(t,) floats; what is louder than full scale is clipped."""
        buffer = io.BytesIO()
        buffer.name = "sound.raw"  # soundfile wants to know that there is no header to write
        sound = samples.clamp(-1, 1).numpy().astype(np.float32)
        soundfile.write(buffer, sound, self.sample_rate, format="RAW", subtype=self.subtype, endian="LITTLE")
        return buffer.getvalue()

    def num_samples(self, milliseconds: float) -> int:
        return round(milliseconds * self.sample_rate / 1000)

    def milliseconds(self, num_samples: int) -> int:
        return round(1000 * num_samples / self.sample_rate)


PCM16 = AudioFormat("audio/pcm", 24_000, 2, "PCM_16")
FORMATS: dict[str, AudioFormat] = {
    each.name: each
    for each in (
        PCM16,
        AudioFormat("audio/pcmu", 8_000, 1, "ULAW"),
        AudioFormat("audio/pcma", 8_000, 1, "ALAW"),
    )
}


def from_base64(text: str) -> bytes:
    """Raises InputError for what is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"audio that is no base64 ({error}): encode it by RFC 4648, without line breaks") from error


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
