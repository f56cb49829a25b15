"""An item held against its sound file: what goes into the manifest, or why it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import soundfile

from data_prep.corpora.item import Item
from usdm.audio import read_audio
from usdm.audio.io import HIGHEST_SAMPLE_RATE, LOWEST_SAMPLE_RATE, SHORTEST_SPEECH
from usdm.types import AlignedWord, InputError

TOLERANCE = 0.1  # seconds by which a source may be wrong about a duration


@dataclass(frozen=True)
class Sound:
    """What a file's header says."""

    seconds: float
    sample_rate: int  # Hz
    channels: int


def manifest_row(item: Item, decode: bool) -> dict[str, object]:
    """A line of the manifest, but for the split.

    Args:
        decode: read every sample, not the header alone.

    Raises:
        InputError: what is wrong with the item; the message has no path, the caller knows it.
    """
    if item.fault:
        raise InputError(item.fault)
    if item.text is not None and not item.text.strip():
        raise InputError("empty text")
    if item.audio is None:
        raise InputError("no sound file")
    sound = read_header(item.audio)
    duration = _duration(item, sound)
    if item.channel is not None and item.channel >= sound.channels:
        raise InputError(f"channel {item.channel} (from 0) of a file with {sound.channels}")
    if decode:
        samples = read_audio(item.audio, start=item.start or 0.0, seconds=duration, channel=item.channel)
        if abs(samples.seconds - duration) > TOLERANCE:
            raise InputError(f"{samples.seconds:.3f} s can be read of {duration:.3f} s")
    row: dict[str, object] = {
        "id": item.id,
        "audio": str(item.audio.absolute()),
        "speaker": item.speaker,
        "role": item.role,
        "dialog": item.dialog or item.id,
        "turn": item.turn,
        "text": None if item.text is None else " ".join(item.text.split()),
        "duration": round(duration, 3),
        "sample_rate": sound.sample_rate,
    }
    known = {
        "start": item.start,
        "channel": item.channel if sound.channels > 1 else None,
        "words": _spans(item.words),
        "phones": _spans(item.phones),
        "pronunciation": list(item.pronunciation) or None,
    }
    return row | {key: value for key, value in known.items() if value is not None}


@lru_cache(maxsize=4096)  # many utterances of one recording come together
def read_header(path: Path) -> Sound:
    """Raises InputError for a file that is missing, empty, or no sound that can be worked with."""
    if not path.is_file():
        raise InputError("no such file")
    if path.stat().st_size == 0:
        raise InputError("the file is empty (0 bytes)")
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"not a readable sound file ({error})") from error
    if info.frames == 0:
        raise InputError("the file holds no samples")
    if not LOWEST_SAMPLE_RATE <= info.samplerate <= HIGHEST_SAMPLE_RATE:
        raise InputError(f"sample rate {info.samplerate} Hz")
    return Sound(info.frames / info.samplerate, info.samplerate, info.channels)


def _duration(item: Item, sound: Sound) -> float:
    """Seconds of the utterance."""
    start = item.start or 0.0
    rest = sound.seconds - start
    duration = rest if item.duration is None else item.duration
    if start < 0 or duration > rest + TOLERANCE:
        raise InputError(
            f"mismatched duration: {duration:.3f} s from {start:.3f} s on, but the file lasts {sound.seconds:.3f} s"
        )
    if item.start is None and rest - duration > TOLERANCE:
        raise InputError(f"mismatched duration: {duration:.3f} s are stated, the file lasts {sound.seconds:.3f} s")
    duration = min(duration, rest)
    if duration < SHORTEST_SPEECH:
        raise InputError(f"{duration:.3f} s is too short for speech")
    return duration


def _spans(spans: Sequence[AlignedWord]) -> list[list[object]] | None:
    return [[span.text, round(span.start, 3), round(span.end, 3)] for span in spans] or None
