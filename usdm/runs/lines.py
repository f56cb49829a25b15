"""JSON lines that are only ever added to. A line without an end is one that a kill cut off: it does not count."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from usdm.types import InputError

Row = dict[str, Any]


def whole_lines(path: str | Path) -> Iterator[bytes]:
    """All lines but a last one without an end: whoever wrote it was stopped in the middle. None if there is no file."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


def read_lines(path: str | Path) -> Iterator[Row]:
    """The rows of a file that may not be there. Raises InputError if a whole line is no JSON object."""
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: no JSON ({error}): take the line out: {line[:60]!r}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: no JSON object: take the line out: {line[:60]!r}")
        yield row


class JsonLines:
    """A file that one process at a time adds whole lines to.

    Raises InputError if another process has it open.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _locked(self.path)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self) -> Iterator[Row]:
        """What is there already. Raises InputError if a whole line cannot be read."""
        return read_lines(self.path)

    def keep(self, wanted: Callable[[Row], bool] = lambda row: True) -> None:
        """Leave out the rows that are not wanted, and a last line that was cut off."""
        self.replace(row for row in self.rows() if wanted(row))

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """These rows in place of all, or all as they were."""
        part = self.path.with_name(self.path.name + ".part")
        kept = part.open("wb", buffering=0)
        try:
            _lock(kept, self.path)  # before it takes the file's place
            for row in rows:
                _write(kept, _line(row))
            os.fsync(kept.fileno())
            os.replace(part, self.path)
        except BaseException:
            kept.close()
            raise
        self._file.close()
        self._file = kept

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Write lines that outlive the machine's power. Raises OSError if the disk does not take them."""
        _write(self._file, b"".join(map(_line, rows)))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _write(file: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


def _locked(path: Path) -> FileIO:
    """The file that has the name while it is locked; another one may take its place before."""
    while True:
        file = path.open("ab", buffering=0)
        _lock(file, path)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()


def _lock(file: FileIO, path: Path) -> None:
    """Until the file is closed or the process ends, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InputError(f"{path}: another run is writing to it; wait for it, or choose another output_dir") from error
