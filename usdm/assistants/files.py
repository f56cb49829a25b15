"""Rows out of the files that benchmarks are published in."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usdm.runs import publishing
from usdm.types import InputError

Row = dict[str, Any]


def rows_of_jsonl(path: Path) -> list[Row]:
    """Raises InputError for a line that is no object."""
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                rows.append(_object(line, f"{path}, line {number}"))
    return rows


def rows_of_json(path: Path) -> list[Row]:
    """Of a file that is one list of objects. Raises InputError if it is not."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: no JSON ({error}); download it again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: a list of objects is needed; download it again")
    return rows


def rows_of_parquet(path: Path) -> Iterator[Row]:
    """Raises InputError if the file cannot be read, or pyarrow is missing."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(f"{path} needs the package pyarrow ({error}): pip install 'usdm[train]'") from error
    try:
        for batch in pq.ParquetFile(path).iter_batches(64):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); download it again") from error


def text_of(row: Row, key: str, where: str) -> str:
    """A text that must be there. Raises InputError."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key}={value!r}, where a text is needed; it has {', '.join(row)}")
    return value


def keep_sound(folder: Path, name: str, sound: bytes) -> Path:
    """Write the bytes of a sound file, once; its name says what is in it."""
    suffix = ".wav" if sound[:4] == b"RIFF" else ".flac" if sound[:4] == b"fLaC" else ".mp3"
    path = folder / f"{name}-{hashlib.sha256(sound).hexdigest()[:8]}{suffix}"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with publishing(path) as part:
            part.write_bytes(sound)
    return path


def safe(name: str) -> str:
    """As a part of an id, which names files."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")


def _object(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: no JSON ({error}); download the file again") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: no JSON object; download the file again")
    return row
