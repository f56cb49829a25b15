"""A sweep's jobs, whoever launches them: each reports what became of it, and at the end there is a table of all.

Jobs run in this process, in others of this machine or on a cluster, and what they return may never arrive. So a job
leaves a record in a folder that it shares with the process that launched the sweep, which shows them all, be the sweep
at its end or cut short. An error ends its own job, not the sweep.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from usdm.cli import Figures, WorkFailed
from usdm.cli.job_folders import LONGEST, added_folder, as_override, give_own_places, own_places
from usdm.runs import write_text
from usdm.types import InputError

DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"


@dataclass(frozen=True)
class Outcome:
    """What a job leaves."""

    status: int = 0  # as the exit status of the verb alone would be
    figures: Figures = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    objective: Any = None  # what a sweeper is told: a figure, or several


def attempt(
    config: DictConfig, work: Callable[[DictConfig], Figures | None], report: Callable[[Callable[[], None]], int]
) -> Outcome:
    """One job's work in its own place, under `report`, which tells its errors. No error is raised, nor is a defect."""
    figures: dict[str, float] = {}
    objective: Any = None
    error: BaseException | None = None

    def remembered() -> None:
        nonlocal error, objective
        try:
            give_own_places(config)
            figures.update(work(config) or {})
            objective = chosen(figures, config.figure)
        except BaseException as stop:
            figures.update(stop.figures if isinstance(stop, WorkFailed) else {})
            error = stop
            raise

    if accelerate := sys.modules.get("accelerate.state"):
        accelerate.AcceleratorState._reset_state()  # it would keep the precision of a process' first job
    start = time.monotonic()
    try:
        status = report(remembered)
        told = None if error is None else str(error)
    except Exception as defect:
        traceback.print_exc()
        status, told = 1, f"{type(defect).__name__}: {defect}"
    if isinstance(error, KeyboardInterrupt):
        raise error  # ends the sweep
    return Outcome(status, figures, told, time.monotonic() - start, objective)


def chosen(figures: Figures, name: Any) -> Any:
    """The figure called `name`, several for a list, the first for None. Raises InputError for an unknown name."""
    if name is None:
        return next(iter(figures.values()), None)
    if not isinstance(name, str):
        return [chosen(figures, each) for each in name]
    if name not in figures:
        raise InputError(f"figure={name}: the result has no such figure, only {', '.join(figures)}")
    return figures[name]


class Jobs(Callback):
    """Keeps the records of a sweep's jobs. Hydra hands the callbacks of the process that launches to every job."""

    records: Path | None = None  # where they lie; None: this is no sweep

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        hydra = config.hydra
        overrides = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
        varied = {each.key_or_group for each in overrides if each.is_sweep_override()}
        varied |= set(hydra.sweeper.get("params") or {})
        self.varied = sorted(varied)
        self.folder = Path(hydra.sweep.dir).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.records = Path(tempfile.mkdtemp(prefix=".jobs-", dir=self.folder))
        fixed = {each.key_or_group for each in overrides} - varied
        fixed |= set(hydra.job.config.override_dirname.exclude_keys)
        # Each job is composed anew, under the overrides of `hydra` that are listed here.
        quoted = ",".join(f"'{key}'" for key in sorted(fixed))
        hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{quoted}]")
        launched.append(self)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self._record(config, {"status": UNFINISHED})

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if self.records is not None:
            outcome: Outcome = job_return.return_value
            job_return.return_value = outcome.objective
            facts = {"status": FAILED if outcome.status else DONE, "exit": outcome.status, "error": outcome.error}
            self._record(config, {**facts, "figures": dict(outcome.figures), "seconds": round(outcome.seconds, 1)})

    def _record(self, config: DictConfig, facts: Mapping[str, Any]) -> None:
        if self.records is None or int(os.environ.get("RANK", 0)):  # of the processes of torchrun the first one writes
            return
        hydra = config.hydra
        overrides = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
        varied = [each for each in overrides if each.key_or_group in self.varied]
        placed = [as_override(key, place) for key, place in own_places(config, hydra).items()]
        row = {
            "job": hydra.job.num,
            "varied": {each.get_key_element(): each.get_value_element_as_str() for each in varied},
            "folder": str(hydra.sweep.dir),
            "command": shlex.join(
                ["usdm", hydra.job.config_name, *added_folder(hydra), *hydra.overrides.task, *placed]
            ),
        }
        write_text(self.records / f"{hydra.job.num}.json", json.dumps({**row, **facts}))

    def end(self) -> list[dict[str, Any]]:
        """Show and save the table; give its rows."""
        assert self.records is not None  # the sweep has begun
        rows = [json.loads(path.read_text(encoding="utf-8")) for path in self.records.glob("*.json")]
        rows.sort(key=lambda row: row["job"])
        shutil.rmtree(self.records)
        if not rows or int(os.environ.get("RANK", 0)):
            return rows
        text = table(rows)
        print(text)
        name = "+".join(re.sub(r"\W+", ".", key) for key in self.varied)[:LONGEST] or "jobs"
        write_text(self.folder / f"{name}.json", json.dumps(rows, indent=1) + "\n")
        write_text(self.folder / f"{name}.txt", text + "\n")
        print(f"the table is also in {self.folder / name}.txt and .json")
        return rows


launched: list[Jobs] = []  # by this process


@contextmanager
def table_at_the_end() -> Iterator[None]:
    """Whatever ends the sweep that is run inside, its table is shown. Exits with the highest status of its jobs."""
    launched.clear()
    rows: list[dict[str, Any]] = []
    try:
        try:
            yield
        finally:
            rows = launched[0].end() if launched else []
    except Exception as error:
        if lost := [str(row["job"]) for row in rows if row["status"] == UNFINISHED]:
            raise WorkFailed(f"job {', '.join(lost)} ended without a result: {error}") from error
        raise
    if status := max((row.get("exit", 1) for row in rows), default=0):
        sys.exit(status)


def table(rows: list[dict[str, Any]]) -> str:
    """A line a job, and below it what went wrong."""
    figures = list(dict.fromkeys(name for row in rows for name in row.get("figures", {})))
    lines = [["job", "overrides", *figures, "status", "seconds", "folder"]]
    for row in rows:
        varied = " ".join(f"{key}={value}" for key, value in row["varied"].items())
        values = [row.get("figures", {}).get(name) for name in figures]
        shown = ["" if value is None else f"{value:.4g}" for value in values]
        lines.append([str(row["job"]), varied, *shown, row["status"], str(row.get("seconds", "")), row["folder"]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(text + [f"job {row['job']}: {row['error'].splitlines()[0]}" for row in rows if row.get("error")])
