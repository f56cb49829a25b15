"""Results of a batch synthesis, line by line on disk, so that a run that was killed goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from usdm.types import InputError

RESULTS_FILE = "results.jsonl"
SHARDS_FOLDER = "results"


@dataclass(frozen=True)
class SynthesisResult:
    """What became of one request: a line of the results."""

    id: str
    request: str  # digest of what was asked for
    user_text: str | None = None  # what was heard or typed
    agent_text: str | None = None
    agent_units: Sequence[int] | None = None
    seconds: float = 0.0  # of sound in `<id>.wav`
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by stage
    truncated: Sequence[str] = ()  # stages that met their token limit before their stop id
    error: str | None = None  # why there is no sound

    def line(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"


class Journal:
    """A results file that one process at a time adds whole lines to.

    Raises InputError if another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _locked(path)

    def rows(self) -> Iterator[dict[str, Any]]:
        """What earlier runs have written. Raises InputError if a whole line cannot be read."""
        return (_row(line, self.path) for line in whole_lines(self.path))

    def forget(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Leave out the rows that are not to be kept, and a last line that was cut off."""
        part = self.path.with_name(self.path.name + ".part")
        kept = part.open("wb", buffering=0)
        try:
            _lock(kept, self.path)  # before it takes the file's place
            for line in whole_lines(self.path):
                if keep(_row(line, self.path)):
                    _write(kept, line)
            os.fsync(kept.fileno())
            os.replace(part, self.path)
        except BaseException:
            kept.close()
            raise
        self._file.close()
        self._file = kept

    def append(self, results: Iterable[SynthesisResult]) -> None:
        """Write lines that outlive the machine's power. Raises OSError if the disk does not take them."""
        _write(self._file, b"".join(result.line() for result in results))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def whole_lines(path: Path) -> Iterator[bytes]:
    """All lines but a last one without an end: whoever wrote it was stopped in the middle."""
    with path.open("rb") as file:
        yield from (line for line in file if line.endswith(b"\n"))


def _row(line: bytes, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not {"id", "request", "error", "seconds"} <= set(row):
            raise ValueError("it lacks keys of a result")
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: holds a line that is no result of a synthesis ({error}): {line[:60]!r}; "
            "take the line out, or choose another output_dir"
        ) from error
    return row


def _num_rows(path: Path) -> int | None:
    return sum(1 for _ in whole_lines(path)) if path.is_file() else None


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


def shard_file(folder: Path, shard: int, num_shards: int) -> Path:
    """Where a shard keeps its results; a run in one piece has the final file alone."""
    if num_shards == 1:
        return folder / RESULTS_FILE
    return folder / SHARDS_FOLDER / f"{shard:05d}-of-{num_shards:05d}.jsonl"


def has_results(folder: Path) -> bool:
    """Whether anything was done here, by any shard."""
    files = [folder / RESULTS_FILE, *(folder / SHARDS_FOLDER).glob("*.jsonl")]
    return any(path.is_file() and path.stat().st_size > 0 for path in files)


def merge_shards(folder: Path, shard: int, counts: Sequence[int]) -> bool:
    """Make the final file of all shards' files, if each has as many rows as `counts` says; whether they had.

    The `shard` that ends last does it; if two end at once both do, with the same outcome.
    """
    paths = [shard_file(folder, shard, len(counts)) for shard in range(len(counts))]
    if any(_num_rows(path) != count for path, count in zip(paths, counts, strict=True)):
        return False
    part = folder / f"{RESULTS_FILE}.{shard}.part"
    with part.open("wb") as file:
        for path in paths:
            file.writelines(whole_lines(path))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / RESULTS_FILE)
    return True
