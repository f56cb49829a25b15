"""Results of a batch synthesis, line by line on disk, so that a run that was killed goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from usdm.runs import publishing, read_lines, whole_lines

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


def shard_file(folder: Path, shard: int, num_shards: int) -> Path:
    """Where a shard keeps its results; a run in one piece has the final file alone."""
    if num_shards == 1:
        return folder / RESULTS_FILE
    return folder / SHARDS_FOLDER / f"{shard:05d}-of-{num_shards:05d}.jsonl"


def ids_with_results(folder: Path) -> Iterator[str]:
    """Of requests that any shard has done; nothing of a file that holds something else."""
    for path in (folder / RESULTS_FILE, *(folder / SHARDS_FOLDER).glob("*.jsonl")):
        yield from (row["id"] for row in read_lines(path) if "id" in row)


def merge_shards(folder: Path, counts: Sequence[int]) -> bool:
    """Make the final file of all shards' files, if each has as many rows as `counts` says; whether they had.

    The shard that ends last does it; if two end at once both do, with the same outcome.
    """
    paths = [shard_file(folder, shard, len(counts)) for shard in range(len(counts))]
    if any(sum(1 for _ in whole_lines(path)) != count for path, count in zip(paths, counts, strict=True)):
        return False
    with publishing(folder / RESULTS_FILE) as part, part.open("wb") as file:
        for path in paths:
            file.writelines(whole_lines(path))
        file.flush()
        os.fsync(file.fileno())
    return True
