"""What a batch synthesis is asked to say: a JSONL or a folder of questions, checked before any work begins."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import typing
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from usdm.runs import content_digest
from usdm.types import LARGEST_SEED, InputError, Role, Turn

logger = logging.getLogger(__name__)

SOUND_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au"),
    *(".m4a", ".mp4", ".3gp", ".webm", ".aac", ".amr", ".wma"),  # these want ffmpeg
)
CONTENTS = ("audio", "text", "units")  # a request has one of them
KEYS = ("id", *CONTENTS, "transcript", "reply", "reference", "voice", "seed", "history")
ONLY_FOR_QUESTIONS = ("transcript", "reply", "history")
PROBLEMS_TOLD = 10
LONGEST_ID = 200  # bytes; file systems take 255, and names grow a suffix
UNSAFE = frozenset('/\\:*?"<>|')


@dataclass(frozen=True)
class SynthesisRequest:
    """One question, or units to voice as they are."""

    id: str  # names the reply's file
    audio: Path | None = None  # the question: either a recording,
    text: str | None = None  # or typed;
    units: tuple[int, ...] | None = None  # or the reply's units, to be voiced without a question
    transcript: str | None = None  # of the recording, where it is known
    reply: str | None = None  # the text to speak, where that is settled
    reference: Path | None = None  # a recording whose voice to speak in
    voice: str | None = None  # or the name of one of the model's
    seed: int | None = None  # None: the run's
    history: tuple[Turn, ...] = ()
    folder: Path = Path()  # that `audio` and `reference` are relative to

    @cached_property
    def digest(self) -> str:
        """Names what is asked for: a finished reply is of this very request, or of another with its id.

        A recording counts by what it holds, wherever it lies; one that is not there by its name.
        """
        history = [(turn.role, turn.text) for turn in self.history]
        recordings = [path and self._content(path) for path in (self.audio, self.reference)]
        row = [self.id, *recordings, self.text, self.units, self.transcript, self.reply, self.voice, self.seed, history]
        return hashlib.sha256(json.dumps(row).encode()).hexdigest()[:16]

    def _content(self, path: Path) -> str:
        whole = self.folder / path
        return content_digest(whole) if whole.is_file() and os.access(whole, os.R_OK) else str(path)


def read_requests(path: str | Path) -> list[SynthesisRequest]:
    """The requests in a JSONL file, or one for every sound file in a folder (its stem is the id).

    A row has `id`, one of `audio` (path, relative to the file), `text` and `units`, and optionally `transcript` (of
    the audio), `reply` (the text to speak, which else the model thinks of), `reference` (path) or `voice` (name),
    `seed`, and `history` (turns with `role` and `text`, oldest first). Sound is not looked at yet. Raises InputError
    that lists what is wrong, with line numbers.
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise InputError(f"requests={path}: no such file; give a JSONL file, or a folder of recordings")
    requests: list[SynthesisRequest] = []
    lines: dict[str, int] = {}  # by id
    problems: list[str] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                request = _request(line, path.parent)
                if (first := lines.setdefault(request.id, number)) != number:
                    raise InputError(f"id {request.id!r} is also on line {first}; ids name files, so make them differ")
                requests.append(request)
            except InputError as error:
                problems.append(f"line {number}: {error}")
    _complain(path, problems)
    if not requests:
        raise InputError(f"requests={path}: the file holds no request; write one JSON object a line")
    return requests


def _from_folder(folder: Path) -> list[SynthesisRequest]:
    files = sorted(filter(_is_sound, folder.iterdir()))
    deeper = sum(path.parent != folder and _is_sound(path) for path in folder.rglob("*"))
    not_read = f"; {deeper} in folders below it are not read: name them in a JSONL file" if deeper else ""
    if not files:
        raise InputError(f"requests={folder}: the folder holds no sound file ({', '.join(SOUND_SUFFIXES)}){not_read}")
    if deeper:
        logger.warning("requests=%s: %d sound files%s", folder, len(files), not_read)
    count = Counter(file.stem for file in files)
    problems = [f"{file.name}: another file has the same stem" for file in files if count[file.stem] > 1]
    for file in files:
        problems += [f"{file.name}: {problem}" for problem in _unsafe(file.stem)]
    _complain(folder, problems)
    return [SynthesisRequest(file.stem, audio=Path(file.name), folder=folder) for file in files]


def _is_sound(path: Path) -> bool:
    """Hidden files are none: macOS leaves `._a.wav` beside `a.wav`."""
    return path.suffix.lower() in SOUND_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _complain(path: Path, problems: list[str]) -> None:
    if problems:
        more = [f"and {len(problems) - PROBLEMS_TOLD} more"] if len(problems) > PROBLEMS_TOLD else []
        told = "\n".join(f"  {problem}" for problem in [*problems[:PROBLEMS_TOLD], *more])
        raise InputError(f"requests={path}: {len(problems)} cannot be used:\n{told}")


def _request(line: bytes, folder: Path) -> SynthesisRequest:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise InputError(f"no UTF-8 ({error}); save the file in UTF-8") from error
    except ValueError as error:
        raise InputError(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise InputError(f"a JSON {type(row).__name__}, where an object is needed")
    problems = list(_problems(row))
    if problems:
        raise InputError("; ".join(problems))
    return SynthesisRequest(
        id=row["id"],
        audio=Path(row["audio"]) if "audio" in row else None,
        text=row.get("text"),
        transcript=row.get("transcript"),
        reply=row.get("reply"),
        units=tuple(row["units"]) if "units" in row else None,
        reference=Path(row["reference"]) if "reference" in row else None,
        voice=row.get("voice"),
        seed=row.get("seed"),
        history=tuple(Turn(turn["role"], turn["text"]) for turn in row.get("history", ())),
        folder=folder,
    )


def _problems(row: dict[str, Any]) -> Iterator[str]:
    if unknown := sorted(set(row) - set(KEYS)):
        yield f"unknown key {', '.join(unknown)}; there are {', '.join(KEYS)}"
    if "id" not in row:
        yield "no id"
    elif not isinstance(row["id"], str):
        yield f"id={row['id']!r} is no string"
    else:
        yield from _unsafe(row["id"])
    given = [key for key in CONTENTS if key in row]
    if len(given) != 1:
        yield f"{' and '.join(given) or 'nothing'} to work with; give one of {', '.join(CONTENTS)}"
    for key in ("audio", "text", "transcript", "reply", "reference", "voice"):
        if key in row and not (_is_text(row[key]) and row[key].strip()):
            yield f"{key}={row[key]!r}: text is needed, and not an empty one"
    if "units" in row and not _are_units(row["units"]):
        yield "units must be a list of at least one number, each 0 or more"
    if "units" in row and (idle := [key for key in ONLY_FOR_QUESTIONS if key in row]):
        yield f"units are voiced as they are: leave out {', '.join(idle)}"
    if "text" in row and "transcript" in row:
        yield "both text and transcript; what is typed needs no transcript"
    if "reference" in row and "voice" in row:
        yield "both reference and voice; give one"
    if "seed" in row and not (_is_number(row["seed"]) and row["seed"] <= LARGEST_SEED):
        yield f"seed={row['seed']!r}: a number from 0 to {LARGEST_SEED} is needed"
    if "history" in row and not _are_turns(row["history"]):
        yield 'history must be a list of turns, each {"role": "user" or "agent", "text": ...}'


def _unsafe(name: str) -> Iterator[str]:
    """What keeps an id from being a file's name."""
    if not name or name != name.strip() or name[:1] == "." or name[-1:] == ".":
        yield f"id {name!r} cannot name a file: it is empty, or begins or ends with a space or a dot"
    elif UNSAFE.intersection(name) or any(unicodedata.category(character)[0] == "C" for character in name):
        yield f"id {name!r} cannot name a file: it has one of {' '.join(sorted(UNSAFE))} or a control character"
    elif len(name.encode()) > LONGEST_ID:
        yield f"id {name[:40]!r}... cannot name a file: it is longer than {LONGEST_ID} bytes"


def _is_text(value: Any) -> bool:
    """A string of whole characters: JSON can also write halves of them (surrogates), which no file can hold."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_units(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_number, value))


def _are_turns(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(turn, dict)
        and set(turn) == {"role", "text"}
        and turn["role"] in typing.get_args(Role)
        and _is_text(turn["text"])
        for turn in value
    )
