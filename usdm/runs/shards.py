"""Work over the rows of files that may grow, in shards that know which rows they hold.

A row is a line of a JSON-lines file, and its key a digest of what its result depends on. Shards are made of the rows
that no shard holds yet, so a corpus that has grown costs its new rows alone, and a killed run the shards that it had
not finished. Memory: 8 bytes a row, 16 more a row to do, and about as much again while shards are planned.
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

from usdm.runs.folder import RefusedError, one_at_a_time
from usdm.runs.lines import read_lines
from usdm.runs.publish import publishing
from usdm.types import InputError

KEY_BYTES = 8  # a billion rows share one with a chance of 3 %, a million with one of 3e-8
ROWS_FOLDER = "rows"
TOLD = 5  # ids in a message
OFFSET_BITS = 44  # of a place: 16 TB a file, half a million files

Keys = NDArray[np.uint64]
Places = NDArray[np.int64]  # number of the file, and in the lower bits the offset of the line in it
Key = Callable[[bytes], bytes | None]  # of a line, what the row's result depends on; None: there is nothing to do


@dataclass(frozen=True)
class Rows:
    """Lines of files, read when they are asked for."""

    files: tuple[Path, ...]
    places: Places  # (R,)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[tuple[Path, bytes]]:
        """The file of each line, and the line."""
        numbers, offsets = self.places >> OFFSET_BITS, self.places & ((1 << OFFSET_BITS) - 1)
        for number in np.unique(numbers):
            with self.files[number].open("rb") as file:
                for offset in offsets[numbers == number]:
                    file.seek(offset)
                    yield self.files[number], file.readline()


@dataclass(frozen=True)
class Task:
    """A shard to make (see `Shards.making`)."""

    path: Path
    rows: Rows
    keys: Keys  # (R,)


@dataclass(frozen=True)
class FailedRow:
    """A row that has no result."""

    key: int
    id: str
    message: str


@dataclass(frozen=True)
class Shard:
    """A shard that is done."""

    path: Path
    keys: Keys  # (R,), those of failed rows among them
    failed: tuple[FailedRow, ...]


@dataclass(frozen=True)
class Share:
    """What a job has to do."""

    tasks: tuple[Task, ...]  # what nobody has done
    keys: Keys  # of all rows of the input, sorted
    own: Keys  # of the rows that are this job's, sorted


@dataclass(frozen=True)
class Outcome:
    """What has come of the rows by now."""

    missing: int  # rows of the whole input that no shard holds: other jobs have still to make them
    failed: tuple[FailedRow, ...]  # of the job's own rows, in this run or in an earlier one


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

    def share(
        self,
        files: Sequence[str | Path],
        size: int,
        *,
        job: int = 0,
        num_jobs: int = 1,
        overwrite: bool = False,
        retry_failed: bool = False,
    ) -> Share:
        """Shards of at most `size` rows, for this job's share of the rows that no shard holds.

        Every `num_jobs`-th block of `size` lines is this job's, whatever other jobs have done by now.

        Args:
            overwrite: delete the shards that hold rows which are not in the files any more.
            retry_failed: this job's rows that failed are to be done again.

        Raises:
            RefusedError: a row is there twice; or a shard holds rows that are not in the files any more, or are others
                now, or that another shard holds too.
        """
        if not 0 <= job < num_jobs:
            raise InputError(f"job={job} of num_jobs={num_jobs}: jobs are numbered from 0 to {num_jobs - 1}")
        if size < 1:
            raise InputError(f"{size} rows in a shard: give 1 or more")
        paths = tuple(map(Path, files))
        keys, places = self._lines(paths)
        known = np.sort(keys)
        if (known[1:] == known[:-1]).any():
            raise RefusedError(self._twice(paths, keys, places))
        blocks = np.arange(-(-len(keys) // size)) % num_jobs == job
        todo = np.repeat(blocks, size)[: len(keys)]  # what is this job's, as yet
        own = known if num_jobs == 1 else np.sort(keys[todo])
        self.folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self.folder):
            held = self._settle(known, overwrite, own if retry_failed else None)
        todo &= ~_among(keys, held)
        return Share(tuple(self._tasks(paths, keys, places, np.flatnonzero(todo), size)), known, own)

    @contextmanager
    def making(self, task: Task) -> Iterator[tuple[Path, dict[str, str]]]:
        """A place to write the task's file to, and a dictionary for ids and messages of rows without a result.

        Once the block ends the list of rows is written, and only then the file gets its name: a shard is done when
        both are there.

        Raises:
            InputError: the rows are not what they were when the task was given.
        """
        failed: dict[str, str] = {}
        with publishing(task.path) as part:
            yield part, failed
            rows = []
            for (path, line), key in zip(task.rows, task.keys, strict=True):
                name, found = _id(path, line), self._digest(line)
                if found is None or int.from_bytes(found, "little") != key:
                    raise InputError(f"{path} was changed while its rows were worked on: give the command again")
                row = {"id": name, "key": found.hex()}
                rows.append(row | ({"failed": failed[name]} if name in failed else {}))
            _write(self._list_of(task.path), rows)

    def outcome(self, share: Share) -> Outcome:
        """Of the whole input and of the job's own rows, as the folder stands now."""
        done = self.done()
        failed = [row for shard in done for row in shard.failed]
        own = _among(np.array([row.key for row in failed], np.uint64), share.own)
        return Outcome(
            missing=int((~_among(share.keys, _sorted(done))).sum()),
            failed=tuple(row for row, is_own in zip(failed, own, strict=True) if is_own),
        )

    def _lines(self, files: Sequence[Path]) -> tuple[Keys, Places]:
        """Key and place of every row, one line in memory at a time."""
        keys, places = bytearray(), bytearray()
        for number, path in enumerate(files):
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    try:
                        key = None if line.isspace() else self._digest(line)
                    except (ValueError, KeyError, AttributeError) as error:
                        raise RefusedError(
                            f"{path}: a line cannot be read ({error!r}); mend it, or take it out: {line[:60]!r}"
                        ) from error
                    if key is not None:
                        keys += key
                        places += struct.pack("<q", number << OFFSET_BITS | offset)
                    offset += len(line)
        return np.frombuffer(keys, "<u8"), np.frombuffer(places, "<i8")

    def _digest(self, line: bytes) -> bytes | None:
        content = line.strip() if self.key is None else self.key(line)
        return None if content is None else blake2b(content, digest_size=KEY_BYTES).digest()

    def _settle(self, known: Keys, overwrite: bool, retried: Keys | None) -> Keys:
        """Sorted keys of the rows that need not be done."""
        for path in self.folder.glob(f"*{self.suffix}"):
            if not self._list_of(path).is_file():
                path.unlink()  # a deletion was cut short: nobody knows any more whose rows these are
        done, kept = self.done(), []
        for shard, again in zip(done, _held_before(done), strict=True):
            gone = ~_among(shard.keys, known)
            if gone.any() and not overwrite:
                raise RefusedError(self._refusal(shard, gone, "are not in the input any more, or are others now"))
            if again.any() and not overwrite:
                raise RefusedError(self._refusal(shard, again, "another shard holds too"))
            if gone.any() or again.any():
                self._delete(shard)
            else:
                kept.append(shard if retried is None else self._without_failed(shard, retried))
        return _sorted(kept)

    def _without_failed(self, shard: Shard, retried: Keys) -> Shard:
        """The shard without such rows; its file, which never had them, stays."""
        failed = np.array([row.key for row in shard.failed], np.uint64)
        if not (forgotten := failed[_among(failed, retried)]).size:
            return shard
        left = [row for row in read_lines(self._list_of(shard.path)) if _key(row) not in forgotten]
        if left:
            _write(self._list_of(shard.path), left)
            return _read(shard.path, self._list_of(shard.path))
        self._delete(shard)
        return Shard(shard.path, np.empty(0, np.uint64), ())

    def _tasks(
        self, files: tuple[Path, ...], keys: Keys, places: Places, chosen: NDArray[Any], size: int
    ) -> Iterator[Task]:
        for at in range(0, len(chosen), size):
            rows = chosen[at : at + size]
            name = blake2b(keys[rows].tobytes(), digest_size=KEY_BYTES).hexdigest()
            path = self.folder / f"{rows[0]:09d}-{name}{self.suffix}"
            yield Task(path, Rows(files, places[rows]), keys[rows])

    def _twice(self, files: tuple[Path, ...], keys: Keys, places: Places) -> str:
        first = np.zeros(len(keys), bool)
        first[np.unique(keys, return_index=True)[1]] = True
        names = [_id(path, line) for path, line in Rows(files, places[~first][:TOLD])]
        count = int((~first).sum())
        where = ", ".join(map(str, files))
        return f"{where}: {count} rows are there a second time: {_told(names, count)}; take the copies out"

    def _refusal(self, shard: Shard, wrong: NDArray[np.bool_], why: str) -> str:
        rows = read_lines(self._list_of(shard.path))
        names = [row["id"] for row, is_wrong in zip(rows, wrong, strict=True) if is_wrong]
        return (
            f"{shard.path} holds {len(names)} rows that {why}: {_told(names[:TOLD], len(names))}; give another "
            "output_dir, or overwrite=true to make such shards again (rows may be added at any time)"
        )

    def _delete(self, shard: Shard) -> None:
        self._list_of(shard.path).unlink(missing_ok=True)
        shard.path.unlink(missing_ok=True)

    def _list_of(self, path: Path) -> Path:
        return self.folder / ROWS_FOLDER / f"{path.name}.jsonl"


def _read(path: Path, rows: Path) -> Shard:
    keys, failed = [], []
    for row in read_lines(rows):
        keys.append(_key(row))
        if "failed" in row:
            failed.append(FailedRow(keys[-1], row["id"], row["failed"]))
    return Shard(path, np.array(keys, np.uint64), tuple(failed))


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with publishing(path) as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _key(row: dict[str, Any]) -> int:
    return int.from_bytes(bytes.fromhex(row["key"]), "little")


def _sorted(shards: Sequence[Shard]) -> Keys:
    return np.sort(np.concatenate([np.empty(0, np.uint64), *(shard.keys for shard in shards)]))


def _held_before(shards: Sequence[Shard]) -> list[NDArray[np.bool_]]:
    """For each shard, which of its rows another one before it holds too."""
    keys = np.concatenate([np.empty(0, np.uint64), *(shard.keys for shard in shards)])
    order = np.argsort(keys, kind="stable")
    again = np.zeros(len(keys), bool)
    again[order[1:][keys[order[1:]] == keys[order[:-1]]]] = True
    return np.split(again, np.cumsum([len(shard.keys) for shard in shards])[:-1]) if shards else []


def _among(keys: Keys, known: Keys) -> NDArray[np.bool_]:
    """Which keys are among `known`, which are sorted."""
    if not len(known):
        return np.zeros(len(keys), bool)
    places = np.searchsorted(known, keys)
    places[places == len(known)] = 0
    return known[places] == keys


def _told(names: Sequence[str], count: int) -> str:
    return ", ".join(names) + (", ..." if count > len(names) else "")


def _id(path: Path, line: bytes) -> str:
    try:
        row = json.loads(line)
        name = row.get("id", row.get("dialog"))
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: a line is no JSON object ({error}): {line[:60]!r}") from error
    if not isinstance(name, str):
        raise InputError(f"{path}: a line has no id: {line[:60]!r}")
    return name
