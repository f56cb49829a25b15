"""Speech corpora on disk: a folder with sound files and `manifest.jsonl`, one line an utterance.

A line holds `id`, `audio` (path, from the folder or absolute), `speaker`, `role`, `dialog`, `turn`, `split`, `text`,
`duration` (s), `sample_rate` (Hz), and where they are known `words` and `phones` (each `[name, start_s, end_s]`),
`word_confidence` (one number a word) and `pronunciation` (phones without times).

Of a long recording an utterance may be a part, `duration` from `start` (s) on, and of a telephone call one side,
`channel` (from 0). Times of words and phones count from the utterance's own start.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from usdm.audio import read_audio
from usdm.types import AlignedWord, InputError, Waveform

MANIFEST_FILE = "manifest.jsonl"

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


def read_speech_corpora(folders: Sequence[str | Path], split: str | None = None) -> list[Utterance]:
    """The utterances of several corpus folders, in order; `split` None takes all.

    Raises:
        InputError: a manifest is missing or has a line that is no utterance, or nothing is left.
    """
    utterances = [
        utterance
        for folder in folders
        for utterance in _read_manifest(Path(folder))
        if split is None or utterance.split == split
    ]
    if not utterances:
        raise InputError(
            f"{', '.join(map(str, folders))}: no utterance with split {split!r}; check the manifest's splits."
        )
    return utterances


def _read_manifest(folder: Path) -> list[Utterance]:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder of a prepared speech corpus.")
    utterances = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            utterances.append(
                Utterance(
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
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number}: not an utterance of a speech corpus ({error!r}).") from error
    return utterances


def _spans(rows: list | None) -> tuple[AlignedWord, ...]:
    return tuple(AlignedWord(name, float(start), float(end)) for name, start, end in rows or ())
