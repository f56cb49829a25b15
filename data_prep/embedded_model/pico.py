"""The SVOX Pico synthesiser (Debian package `libttspico-utils`) through its command; no word times."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from data_prep.embedded_model.flite import Synthesised
from data_prep.sound_file import read_spoken
from usdm.system_packages import install
from usdm.types import InputError

VOICES = ("en-US", "en-GB")


def speak(text: str, voice: str, *, speed: int = 100, pitch: int = 100) -> Synthesised:
    """Say `text` (letters and `',.?` alone); speed and pitch in percent of the voice's own.

    Raises:
        InputError: the voice is unknown, the program is not installed, or it says nothing.
    """
    if voice not in VOICES:
        raise InputError(f"Unknown Pico voice '{voice}': choose one of {', '.join(VOICES)}.")
    marked = f'<speed level="{speed}"><pitch level="{pitch}">{text}</pitch></speed>'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        try:
            subprocess.run(["pico2wave", "-l", voice, "-w", str(path), marked], check=True, capture_output=True)
        except FileNotFoundError as error:
            raise InputError(f"pico2wave is not there: {install('libttspico-utils')}.") from error
        return Synthesised(*read_spoken(path, text), (), ())
