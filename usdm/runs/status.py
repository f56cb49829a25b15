"""What became of the runs below a folder: done, at work, stopped, or made from inputs that are others by now."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from usdm.runs.folder import RUN_FILE, RunRecord, is_running, read_run
from usdm.runs.identity import Places, input_digests
from usdm.runs.lines import read_lines
from usdm.types import InputError

State = Literal["done", "running", "unfinished", "stale", "unknown", "never made"]

LOG_FILE = "log.jsonl"  # of a training
# Below these folders there is no run, but much to look through; a packaged model is a run itself.
LEAVES = {"audio", "model", "validation", "results", "rows"}
CORPUS = "manifest.jsonl"  # a folder with one holds sounds


@dataclass(frozen=True)
class RunStatus:
    folder: str  # from the experiment's
    state: State  # "unknown": a verb worked here and left no record
    stale: tuple[str, ...] = ()  # which inputs changed, and how
    step: int | None = None  # that a training has come to
    steps: int | None = None  # that it is to come to
    figures: Mapping[str, Any] = field(default_factory=dict)  # of the run that is done, or the last ones logged
    command: str | None = None


def statuses(root: str | Path) -> list[RunStatus]:
    """Of every folder below `root` in which a run or a verb left its record, by name.

    A run is stale if an input is not there any more or has another content, or if it came from a run that is stale.
    """
    root = Path(root)
    records = {folder: _record(folder) for folder in _folders(root)}
    changed = {folder: _changed(record) for folder, record in records.items() if record is not None}
    stale = {folder: reasons for folder, reasons in changed.items() if reasons}
    waiting = list(stale)
    while waiting:
        source = waiting.pop()
        for folder, record in records.items():
            if record is not None and folder not in stale and (inputs := _from(record, source)):
                stale[folder] = [f"{name}: {source.relative_to(root)} is stale" for name in inputs]
                waiting.append(folder)
    return [_status(root, folder, record, stale.get(folder, [])) for folder, record in sorted(records.items())]


def _folders(root: Path) -> Iterator[Path]:
    for path, names, files in os.walk(root):
        if RUN_FILE in files or ".hydra" in names:
            yield Path(path)
        yield from (Path(path, name) for name in LEAVES.intersection(names) if Path(path, name, RUN_FILE).is_file())
        seen = [name for name in names if name not in LEAVES and not name.startswith((".", "checkpoint-"))]
        names[:] = [] if CORPUS in files else seen


def _record(folder: Path) -> RunRecord | None:
    try:
        return read_run(folder)
    except InputError:
        return None


def _changed(record: RunRecord) -> list[str]:
    reasons = []
    for name, places in record.places.items():
        try:
            now = input_digests({name: places})[name]
        except InputError:
            reasons.append(f"{name}: {_told(places)} is gone")
            continue
        if now != record.inputs.get(name):
            reasons.append(f"{name}: {_told(places)} has changed")
    return reasons


def _told(places: Places) -> str:
    return ", ".join(os.path.relpath(place) if os.path.isabs(place) else str(place) for place in _each(places))


def _from(record: RunRecord, source: Path) -> list[str]:
    """Names of the inputs that lie in the folder of a run."""
    own = source.resolve()
    return [
        name
        for name, places in record.places.items()
        if any(Path(place).resolve().is_relative_to(own) for place in _each(places))
    ]


def _each(places: Places) -> list[str | Path]:
    if places is None:
        return []
    return [places] if isinstance(places, str | Path) else list(places)


def _status(root: Path, folder: Path, record: RunRecord | None, stale: list[str]) -> RunStatus:
    name = str(folder.relative_to(root))
    if record is None:
        return RunStatus(name, "unknown")
    state: State = "done" if record.done else "unfinished"
    if stale:
        state = "stale"
    if is_running(folder):
        state = "running"
    status = RunStatus(name, state, tuple(stale), figures=record.figures, command=record.command)
    steps = record.settings.get("loop.steps")
    if steps is None:
        return status
    rows = list(_rows(folder / LOG_FILE))
    step = max((row["step"] for row in rows), default=0)
    last: dict[str, Any] = {}
    for row in rows:
        last |= row
    logged = {key: value for key, value in last.items() if key not in ("step", "seconds")}
    return replace(status, step=step, steps=steps, figures=record.figures or logged)


def _rows(log: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from read_lines(log)
    except InputError:
        return  # a line that is being replaced
