"""Texts of many kinds of files: plain text, JSON lines, CSV, dialogs, and intents as CLINC150 publishes them."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from usdm.types import InputError

_PARAGRAPH = re.compile(r"\n\s*\n")


def read_texts(file: str | Path) -> Iterator[str]:
    """The texts of a file, which may be gzipped, by its name's ending.

    `.txt`: paragraphs, an empty line between them. `.jsonl`: the field `text` of each line, and of dialogs (`turns`)
    what their users say; lines of `split` "test" are left out. `.csv`: the column `text`. `.json`: lists of
    [text, label] by name; those whose name has "test" in it are left out.

    Raises:
        InputError: the file is missing, of another kind, no UTF-8 text, or not laid out so.
    """
    path = Path(file)
    kind = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    if kind not in _READERS:
        raise InputError(f"{path}: texts are read from files that end in {', '.join(_READERS)}, gzipped or not.")
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of text.")
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as lines:
            yield from _READERS[kind](lines)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error}): convert it first.") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{path} is not laid out as its ending says ({error!r}).") from error


def _plain(lines: TextIO) -> Iterator[str]:
    for paragraph in _PARAGRAPH.split(lines.read()):
        yield " ".join(paragraph.split())


def _json_lines(lines: TextIO) -> Iterator[str]:
    for line in lines:
        row = json.loads(line)
        if row.get("split") == "test":
            continue
        if "turns" in row:
            yield from (str(turn["text"]) for turn in row["turns"] if turn["speaker"] == "user")
        elif row.get("text"):
            yield str(row["text"])


def _table(lines: TextIO) -> Iterator[str]:
    for row in csv.DictReader(lines):
        yield str(row["text"])


def _by_name(lines: TextIO) -> Iterator[str]:
    lists: dict[str, list[Any]] = json.load(lines)
    for name, pairs in lists.items():
        if "test" not in name:
            yield from (str(text) for text, _ in pairs)


_READERS = {".txt": _plain, ".jsonl": _json_lines, ".csv": _table, ".json": _by_name}
