"""Sources without a recipe: a folder of sound with text beside it, and a JSONL of utterances."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from data_prep.corpora.item import Item
from usdm.types import AlignedWord, InputError

SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".sph")
TEXT_SUFFIXES = (".normalized.txt", ".txt", ".lab")  # the first that is there


def paired_files(folder: str) -> Iterator[Item]:
    """`a.wav` with `a.normalized.txt`, `a.txt` or `a.lab` beside it, at any depth; the folder it is in is the speaker.

    Raises:
        InputError: there is no such folder, or no sound in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give one of sound files with text beside them.")
    sounds = sorted(path for path in root.rglob("*") if _is_sound(path))
    if not sounds:
        raise InputError(f"{root}: no sound file in it; {', '.join(SOUND_SUFFIXES)} are known.")
    suffixes = ", ".join(TEXT_SUFFIXES)
    for path in sounds:
        item_id = "-".join(path.relative_to(root).with_suffix("").parts)
        speaker = path.parent.name if path.parent != root else root.name
        beside = [path.with_suffix(suffix) for suffix in TEXT_SUFFIXES]
        text_file = next((file for file in beside if file.is_file()), None)
        if text_file is None:
            yield Item(item_id, path, fault=f"no text beside it ({suffixes}); source=jsonl takes recordings without")
            continue
        try:
            yield Item(item_id, path, text_file.read_text(encoding="utf-8-sig"), speaker)
        except UnicodeDecodeError as error:
            yield Item(item_id, path, fault=f"{text_file.name} is no UTF-8 ({error})")


def _is_sound(path: Path) -> bool:
    """Hidden files are none: macOS leaves `._a.wav` beside `a.wav`."""
    return path.suffix.lower() in SOUND_SUFFIXES and not path.name.startswith(".")


def jsonl(file: str) -> Iterator[Item]:
    """One object a line: `audio` (path, from the file's folder or absolute), and what is known of `id`, `text`,
    `speaker`, `dialog`, `turn`, `role`, `split`, `start` and `end` or `duration` (s), `channel`, `words`, `phones`,
    `pronunciation`. Other keys are not read; a blank text is none.

    Raises:
        InputError: there is no such file, or nothing in it.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a JSONL of utterances.")
    if not path.stat().st_size:
        raise InputError(f"{path}: the file is empty; give a JSONL of utterances.")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _read_line(path, number, line)


def _read_line(path: Path, number: int, line: bytes) -> Item:
    try:
        row = json.loads(line)
        if not isinstance(row.get("text"), str | None):
            raise TypeError(f"text is {row['text']!r}")
        return Item(
            id=str(row.get("id") or _default_id(row)),
            audio=path.parent / row["audio"],
            text=(row.get("text") or "").strip() or None,
            speaker=str(row.get("speaker") or "unknown"),
            role=row.get("role") or "user",
            dialog=None if row.get("dialog") is None else str(row["dialog"]),
            turn=int(row.get("turn") or 0),
            split=row.get("split"),
            group=None if row.get("dialog") is None else str(row["dialog"]),
            start=None if row.get("start") is None else float(row["start"]),
            duration=_duration(row),
            channel=None if row.get("channel") is None else int(row["channel"]),
            words=_spans(row.get("words")),
            phones=_spans(row.get("phones")),
            pronunciation=tuple(row.get("pronunciation") or ()),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Item(f"{path.name}:{number}", None, fault=f"line {number} is no utterance ({error!r})")


def _default_id(row: dict) -> str:
    """Of a turn its dialog and number, else the sound's name without its suffix."""
    if row.get("dialog") is not None and row.get("turn") is not None:
        return f"{row['dialog']}-{row['turn']}"
    name = "-".join(Path(row["audio"]).with_suffix("").parts)
    return name if row.get("start") is None else f"{name}-{row['start']}"


def _duration(row: dict) -> float | None:
    if row.get("end") is not None:
        return float(row["end"]) - float(row.get("start") or 0.0)
    return None if row.get("duration") is None else float(row["duration"])


def _spans(rows: list | None) -> tuple[AlignedWord, ...]:
    return tuple(AlignedWord(name, float(start), float(end)) for name, start, end in rows or ())
