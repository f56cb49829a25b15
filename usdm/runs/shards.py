"""Work over the rows of files that may grow, in shards that know which rows they hold.

A row is a line of a JSON-lines file, and its key a digest of what its result depends on. Shards are made of the rows
that no shard holds yet, so a corpus that has grown costs its new rows alone, and a killed run the shards that it had
not finished. Memory: 16 bytes a row that is done, and the offsets of the lines to do.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdm.runs.lines import read_lines
from usdm.runs.publish import publishing
from usdm.types import InputError

KEY_BYTES = 8  # a billion rows share one with a chance of 3 %, a million with one of 3e-8
ROWS_FOLDER = "rows"
TOLD = 5  # ids in a message

Key = Callable[[bytes], bytes]  # of a line, what the row's result depends on


@dataclass(frozen=True)
class Rows:
    """Lines of files, read when they are asked for."""

    files: tuple[Path, ...]
    positions: NDArray[np.int64]  # (R, 2): number of the file, offset of the line in it

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[tuple[Path, bytes]]:
        """The file of each line, and the line."""
        for number in np.unique(self.positions[:, 0]):
            with self.files[number].open("rb") as file:
                for offset in self.positions[self.positions[:, 0] == number, 1]:
                    file.seek(offset)
                    yield self.files[number], file.readline()


@dataclass(frozen=True)
class Task:
    """A shard to make (see `Shards.making`)."""

    path: Path
    rows: Rows


@dataclass(frozen=True)
class Shard:
    """A shard that is done."""

    path: Path
    keys: NDArray[np.uint64]  # (R,)
    failed: tuple[str, ...]  # a message for each row that has no result


class Shards:
    """The shards in a folder, `<place of the first row>-<digest of its rows><suffix>`.

    Args:
        folder: of one identity (see `claim`).
        suffix: of the files, for example ".parquet".
        key: what a row's result depends on; None is the whole line. Processes that make shards need it by name.
    """

    def __init__(self, folder: str | Path, suffix: str, key: Key | None = None) -> None:
        self.folder, self.suffix, self.key = Path(folder), suffix, key

    def done(self) -> list[Shard]:
        """What is finished, in the order of the files' names."""
        lists = [(path, self._list_of(path)) for path in sorted(self.folder.glob(f"*{self.suffix}"))]
        return [_read(path, rows) for path, rows in lists if rows.is_file()]

    def tasks(
        self, files: Sequence[str | Path], size: int, *, job: int = 0, num_jobs: int = 1, overwrite: bool = False
    ) -> list[Task]:
        """Shards of at most `size` rows, for this job's share of the rows that no shard holds.

        Every `num_jobs`-th block of `size` lines is this job's, whatever other jobs have done by now.

        Args:
            overwrite: delete the shards that hold rows which are not in the files any more.

        Raises:
            InputError: a shard holds rows that are not in the files any more, or are others now.
        """
        if not 0 <= job < num_jobs:
            raise InputError(f"job={job} of num_jobs={num_jobs}: jobs are numbered from 0 to {num_jobs - 1}")
        paths = tuple(map(Path, files))
        keys, positions = self._lines(paths)
        held = [np.empty(0, np.uint64)]
        for shard in self.done():
            gone = ~np.isin(shard.keys, keys)
            if gone.any() and not overwrite:
                raise InputError(self._refusal(shard, gone))
            if gone.any():
                self._delete(shard)
            else:
                held.append(shard.keys)
        missing = ~np.isin(keys, np.concatenate(held))
        mine = np.arange(len(keys)) // size % num_jobs == job
        todo = np.flatnonzero(missing & mine)
        return [self._task(paths, keys, positions, todo[at : at + size]) for at in range(0, len(todo), size)]

    @contextmanager
    def making(self, task: Task) -> Iterator[tuple[Path, dict[str, str]]]:
        """A place to write the task's file to, and a dictionary for ids and messages of rows without a result.

        Once the block ends the list of rows is written, and only then the file gets its name: a shard is done when
        both are there.
        """
        failed: dict[str, str] = {}
        with publishing(task.path) as part:
            yield part, failed
            with publishing(self._list_of(task.path)) as rows, rows.open("w", encoding="utf-8") as file:
                for path, line in task.rows:
                    name = _id(path, line)
                    row = {"id": name, "key": self._digest(line).hex()}
                    file.write(json.dumps(row | ({"failed": failed[name]} if name in failed else {})) + "\n")

    def forget_failed(self) -> int:
        """Delete the shards in which rows failed, so that they are tried again; the number of such rows."""
        failed = [shard for shard in self.done() if shard.failed]
        for shard in failed:
            self._delete(shard)
        return sum(len(shard.failed) for shard in failed)

    def _lines(self, files: Sequence[Path]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Key and place of every line, one line in memory at a time."""
        keys, places = bytearray(), bytearray()
        for number, path in enumerate(files):
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    if not line.isspace():
                        keys += self._digest(line)
                        places += struct.pack("=qq", number, offset)
                    offset += len(line)
        return np.frombuffer(keys, ">u8").astype(np.uint64), np.frombuffer(places, np.int64).reshape(-1, 2)

    def _digest(self, line: bytes) -> bytes:
        content = line.strip() if self.key is None else self.key(line)
        return blake2b(content, digest_size=KEY_BYTES).digest()

    def _task(
        self,
        files: tuple[Path, ...],
        keys: NDArray[np.uint64],
        positions: NDArray[np.int64],
        chosen: NDArray[np.int64],
    ) -> Task:
        name = blake2b(keys[chosen].tobytes(), digest_size=KEY_BYTES).hexdigest()
        return Task(self.folder / f"{chosen[0]:09d}-{name}{self.suffix}", Rows(files, positions[chosen]))

    def _refusal(self, shard: Shard, gone: NDArray[np.bool_]) -> str:
        rows = read_lines(self._list_of(shard.path))
        names = [row["id"] for row, is_gone in zip(rows, gone, strict=True) if is_gone]
        more = ", ..." if len(names) > TOLD else ""
        return (
            f"{shard.path} holds {len(names)} rows that are not in the input any more, or are others now: "
            f"{', '.join(names[:TOLD])}{more}; give another output_dir, or overwrite=true to make such shards again "
            "(rows may be added at any time)"
        )

    def _delete(self, shard: Shard) -> None:
        self._list_of(shard.path).unlink(missing_ok=True)
        shard.path.unlink(missing_ok=True)

    def _list_of(self, path: Path) -> Path:
        return self.folder / ROWS_FOLDER / f"{path.name}.jsonl"


def _read(path: Path, rows: Path) -> Shard:
    keys, failed = bytearray(), []
    for row in read_lines(rows):
        keys += bytes.fromhex(row["key"])
        if "failed" in row:
            failed.append(row["failed"])
    return Shard(path, np.frombuffer(keys, ">u8").astype(np.uint64), tuple(failed))


def _id(path: Path, line: bytes) -> str:
    row: dict[str, Any] = json.loads(line)
    name = row.get("id", row.get("dialog"))
    if not isinstance(name, str):
        raise InputError(f"{path}: a line has no id: {line[:60]!r}")
    return name
