"""Voices with a name: recordings that a bundle brings along for its replies to sound like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from usdm.types import InputError

VOICES_FOLDER = "voices"
FORMATS = (".flac", ".wav")


def find_voices(folder: str | Path) -> dict[str, Path]:
    """Recordings in a folder by name. Raises InputError if there is no such folder, or two have one name."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"voices={folder}: no such folder; give one with recordings such as NAME.flac")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix in FORMATS):
        if path.stem in found:
            raise InputError(f"voice {path.stem} has two recordings, {found[path.stem]} and {path}: keep one")
        found[path.stem] = path
    return found


def voice_file(voices: Mapping[str, Path], name: str) -> Path:
    """The recording of that name. Raises InputError that lists those that exist."""
    if name not in voices:
        raise InputError(
            f"voice={name}: this model has {', '.join(sorted(voices)) or 'no named voices'}; "
            "name one of them, or give a recording as reference"
        )
    return voices[name]
