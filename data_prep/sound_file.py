"""The sound file that a synthesiser's command leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from usdm.types import InputError


def read_spoken(path: Path, text: str) -> tuple[np.ndarray, int]:
    """Samples, (T,) int16, and their rate in Hz.

    Raises:
        InputError: the synthesiser left nothing, or no sample, for `text`.
    """
    if not path.is_file() or not soundfile.info(path).frames:
        raise InputError(f"The synthesiser said nothing for {text!r}: write it in English letters.")
    samples, sample_rate = soundfile.read(path, dtype="int16")
    return samples, sample_rate
