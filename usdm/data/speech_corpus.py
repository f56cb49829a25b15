"""Speech corpora on disk: a folder with sound files and `manifest.jsonl`, one line an utterance.

A line holds `id`, `audio` (path, from the folder or absolute), `speaker`, `role`, `dialog`, `turn`, `split`, `text`,
`duration` (s), `sample_rate` (Hz), and where they are known `words` and `phones` (each `[name, start_s, end_s]`),
`word_confidence` (one number a word) and `pronunciation` (phones without times). A text that a recogniser heard stands,
with its confidence, under `heard` too.

Of a long recording an utterance may be a part, `duration` from `start` (s) on, and of a telephone call one side,
`channel` (from 0). Times of words and phones count from the utterance's own start.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from usdm.audio import read_audio
from usdm.types import AlignedWord, InputError, Waveform

MANIFEST_FILE = "manifest.jsonl"
NEEDED = ("id", "audio", "speaker", "role", "dialog", "turn", "split", "duration")  # in each of its lines

Sound = tuple[Path, float | None, int | None]  # file, start, channel


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest."""

    id: str
    audio: Path
    speaker: str
    role: str
    dialog: str
    turn: int
    split: str
    text: str | None
    duration: float  # seconds
    words: tuple[AlignedWord, ...]  # empty: times not known
    phones: tuple[AlignedWord, ...]  # empty: times not known
    pronunciation: tuple[str, ...]  # empty: not known
    start: float | None = None  # seconds into the file; None: the file is the utterance
    channel: int | None = None  # None: all, averaged
    word_confidence: tuple[float, ...] = ()  # 0..1 a word; empty: not known

    @property
    def sound(self) -> Sound:
        """Names the sound: several utterances may share one."""
        return self.audio, self.start, self.channel

    def read(self, sample_rate: int | None = None) -> Waveform:
        """Its sound, at `sample_rate` (Hz) or its own. Raises InputError if it cannot be read."""
        if self.start is None:
            return read_audio(self.audio, sample_rate, channel=self.channel)
        return read_audio(self.audio, sample_rate, start=self.start, seconds=self.duration, channel=self.channel)


def read_speech_corpora(folders: Sequence[str | Path], split: str | None = None) -> Iterator[Utterance]:
    """The utterances of several corpus folders, in order, one in memory at a time; `split` None takes all.

    Raises:
        InputError: a manifest is missing or has a line that is no utterance; or, at the end, there was none.
    """
    paths = manifest_files(folders)
    return _utterances(paths, split, ", ".join(map(str, folders)))


def manifest_files(folders: Sequence[str | Path]) -> list[Path]:
    """The manifest of each corpus folder. Raises InputError if one is missing."""
    paths = [Path(folder) / MANIFEST_FILE for folder in folders]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise InputError(f"{', '.join(missing)}: no such file; give the folder of a prepared speech corpus.")
    return paths


def check_ids(manifests: Sequence[Path]) -> None:
    """Raises InputError where two utterances have one id, by which their units, word times and labels are found.

    A line that cannot be read is nobody's here: whoever works on it tells. 8 bytes of memory an utterance.
    """
    digests = np.fromiter((hash(name) for _, name in _ids(manifests)), np.int64)
    found, counts = np.unique(digests, return_counts=True)
    if (repeated := set(found[counts > 1].tolist())) == set():
        return
    places: dict[str, list[str]] = {}
    for path, name in _ids(manifests):
        if hash(name) in repeated:
            places.setdefault(name, []).append(str(path.parent))
    twice = {name: where for name, where in places.items() if len(where) > 1}  # others have a digest in common alone
    if twice:
        name, where = next(iter(twice.items()))
        raise InputError(
            f"{len(twice)} ids are of several utterances, such as {name!r} in {' and '.join(where[:3])}: units are "
            "found by their id; rename the utterances and the dialogs of one corpus"
        )


def _ids(manifests: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for path in manifests:
        with path.open("rb") as lines:
            for line in lines:
                with suppress(ValueError):
                    yield path, manifest_row(line)["id"]


def parse_utterance(path: Path, line: bytes, where: str = "a line") -> Utterance:
    """A line of the manifest at `path`. Raises InputError if it is no utterance, with `where` in the message."""
    try:
        return _utterance(path.parent, json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}, {where}: not an utterance of a speech corpus ({error}): {line[:60]!r}") from error


def manifest_row(line: bytes) -> dict[str, Any]:
    """A line as it stands there, for those who write it anew. Raises ValueError if it is no row of a manifest."""
    row = json.loads(line)
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("id", "audio")):
        raise ValueError("it needs id and audio")
    return row


def manifest_lines(manifest: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """The lines that are not empty: number from 1, offset in bytes, and the line."""
    offset = 0
    for number, line in enumerate(manifest, start=1):
        if not line.isspace():
            yield number, offset, line
        offset += len(line)


def _utterances(paths: Sequence[Path], split: str | None, folders: str) -> Iterator[Utterance]:
    found = False
    for path in paths:
        with path.open("rb") as manifest:
            for number, _, line in manifest_lines(manifest):
                utterance = parse_utterance(path, line, f"line {number}")
                if split is None or utterance.split == split:
                    found = True
                    yield utterance
    if not found:
        raise InputError(f"{folders}: no utterance with split {split!r}; check the manifest's splits.")


def _utterance(folder: Path, row: dict[str, Any]) -> Utterance:
    if missing := [name for name in NEEDED if name not in row]:
        raise ValueError(f"no {', '.join(missing)}; `usdm import_corpus source=jsonl` fills in what can be")
    if not (isinstance(row["id"], str) and isinstance(row.get("text"), str | None)):
        raise TypeError("id and text are strings")
    if not isinstance(row.get("channel"), int | None):
        raise TypeError(f"channel {row['channel']!r} is no number")
    return Utterance(
        id=row["id"],
        audio=folder / row["audio"],
        speaker=row["speaker"],
        role=row["role"],
        dialog=row["dialog"],
        turn=int(row["turn"]),
        split=row["split"],
        text=row.get("text"),
        duration=float(row["duration"]),
        words=_spans(row.get("words")),
        phones=_spans(row.get("phones")),
        pronunciation=tuple(row.get("pronunciation") or ()),
        start=None if row.get("start") is None else float(row["start"]),
        channel=row.get("channel"),
        word_confidence=tuple(row.get("word_confidence") or ()),
    )


def _spans(rows: list | None) -> tuple[AlignedWord, ...]:
    return tuple(AlignedWord(name, float(start), float(end)) for name, start, end in rows or ())
