"""A run's folder, claimed under an identity: the same identity goes on, another one is told what differs."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from usdm.runs.identity import Places, flat, input_digests
from usdm.runs.publish import OLD, PART, remove, write_text
from usdm.types import InputError

RUN_FILE, LOCK_FILE = "run.json", "run.lock"
TOLD = 12  # differences in a message
AT_WORK = "another run is at work there; wait for it, or give another output_dir"
_command: ContextVar[str | None] = ContextVar("command", default=None)
_claimed: ContextVar[Callable[[bool], None] | None] = ContextVar("claimed", default=None)


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` says: what the folder's content depends on, and what came of it."""

    settings: Mapping[str, Any]  # under their full keys
    inputs: Mapping[str, str | None]  # digests of contents
    places: Mapping[str, Any]  # where the inputs lay; not part of the identity
    command: str | None = None  # that it was last started with, before it was done
    done: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)  # of a run that is done


class RefusedError(InputError):
    """Raised under a claim before anything was touched: the folder keeps the record that it had."""


class RunFolder:
    """A claimed folder, until the block of `claim` ends."""

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path, self.record = path, record

    def reopen(self) -> None:
        """Say that there is work to do, in a run that was done."""
        if self.record.done:
            self.record = replace(self.record, done=False, figures={})
            _write(self.path, self.record)

    def finish(self, figures: Mapping[str, Any] | None = None, *, rewritten: Collection[str] = ()) -> None:
        """Say that all work is done, and what came of it.

        Args:
            rewritten: inputs that the run itself has written to; what they are now is no reason to run again.
        """
        inputs = {**self.record.inputs, **input_digests({name: self.record.places[name] for name in rewritten})}
        self.record = replace(self.record, inputs=inputs, done=True, figures=dict(figures or {}))
        _write(self.path, self.record)


def started_with(command: str, claimed: Callable[[bool], None] | None = None) -> None:
    """What the records of this process' runs say from now on about how to start them again.

    `claimed` is called whenever a run has got its folder, with whether all is done there.
    """
    _command.set(command)
    _claimed.set(claimed)


@contextmanager
def claim(
    folder: str | Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Places],
    *,
    results: Sequence[str],
    beside: Sequence[str] = (),
    grows: Collection[str] = (),
    free: Collection[str] = (),
    overwrite: bool = False,
    shared: bool = False,
) -> Iterator[RunFolder]:
    """Work in `folder` under the identity of `settings` and of the contents of `inputs`.

    A run that is done stays so until its inputs change: whoever claims it again finds that in its `record`.

    Args:
        settings: all that the results depend on beside the inputs, as JSON can hold it.
        inputs: files or folders by name.
        results: names or patterns of what the run writes into the folder. `overwrite` deletes these and nothing else.
        beside: files that the run publishes beside the folder, and that are not deleted: they may be the user's own.
        grows: inputs that may have more content than before; whoever reads them compares their rows.
        free: settings (the last part of their keys) that do not decide the results, and so are no part of the identity.
        overwrite: a run of another identity is deleted. One of the same identity goes on all the same.
        shared: several jobs work here at once, under one identity; otherwise one process alone may.

    Raises:
        InputError: results of another identity, or of an unknown one, are there, or another run is at work.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    decisive = {key: value for key, value in flat(settings).items() if key.rpartition(".")[2] not in free}
    now = RunRecord(
        settings=json.loads(json.dumps(decisive)),
        inputs=input_digests(inputs),
        places={name: _named(places) for name, places in inputs.items()},
        command=_command.get(),
    )
    with (path / LOCK_FILE).open("ab") as lock:
        with one_at_a_time(path):
            then, left = read_run(path), any(_left(path, results))
            found = [] if then is None else differences(then, now, grows)
            other = bool(found or (then is None and left))
            if other and left and not overwrite:
                raise InputError(_refusal(path, found))
            alone = _locked(lock, fcntl.LOCK_EX)
            if not alone and (other or not shared or not _locked(lock, fcntl.LOCK_SH)):
                raise InputError(_refusal(path, found) if found and not overwrite else f"{path}: {AT_WORK}")
            if other:
                _delete(path, results)
            if alone:
                _delete_parts(path, results)
                _delete_parts(path.parent, beside)
            if then is not None and not other and then.inputs == now.inputs:
                command = then.command if then.done else now.command  # the one that did the work
                now = replace(now, done=then.done, figures=then.figures, command=command)
            _write(path, now)
            goes_on = then is not None and not now.done and bool(grows)  # unless the new rows are refused
            if (told := _claimed.get()) is not None and not goes_on:
                told(now.done)
            if shared:
                fcntl.flock(lock, fcntl.LOCK_SH)  # the others may come now
        try:
            yield RunFolder(path, now)
        except RefusedError:
            if then is not None and not other:
                _write(path, then)
            raise


def record(
    folder: str | Path, settings: Mapping[str, Any], inputs: Mapping[str, Places], figures: Mapping[str, Any]
) -> None:
    """Say what a folder that is published as a whole was made from; it claims no folder, and refuses nothing."""
    places = {name: _named(each) for name, each in inputs.items()}
    plain = json.loads(json.dumps(flat(settings)))
    _write(Path(folder), RunRecord(plain, input_digests(inputs), places, _command.get(), True, dict(figures)))


def read_run(folder: str | Path) -> RunRecord | None:
    """What is said about a folder's run; None if nothing is. Raises InputError if it cannot be read."""
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        return None
    try:
        return RunRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: no record of a run ({error}); give another output_dir, or delete it") from error


def is_running(folder: str | Path) -> bool:
    """Whether a process works in the folder now, on this machine or on one that shares its locks."""
    path = Path(folder) / LOCK_FILE
    if not path.is_file():
        return False
    mode: Literal["ab", "rb"] = "ab" if os.access(path, os.W_OK) else "rb"  # network file systems want to write
    with one_at_a_time(path.parent), path.open(mode) as lock:  # nobody who starts meanwhile meets this lock
        return not _locked(lock, fcntl.LOCK_EX)


def differences(then: RunRecord, now: RunRecord, grows: Collection[str] = ()) -> list[str]:
    """A line for every setting or input that differs, old and new."""
    lines = []
    for key in {**then.settings, **now.settings}:
        old, new = then.settings.get(key), now.settings.get(key)
        if old != new:
            lines.append(f"{key}: {json.dumps(old)} then, {json.dumps(new)} now")
    for name in {**then.inputs, **now.inputs}:
        if name not in grows and then.inputs.get(name) != now.inputs.get(name):
            was, is_now = (f"{each.places.get(name)} (content {each.inputs.get(name)})" for each in (then, now))
            lines.append(f"{name}: {was} then, {is_now} now")
    return lines


def _left(path: Path, results: Sequence[str]) -> Iterator[Path]:
    """Results that are there. A run that failed at once leaves nothing, or empty files and folders: these are none."""
    for pattern in results:
        for found in path.glob(pattern):
            if any(found.iterdir()) if found.is_dir() else found.stat().st_size:
                yield found


def _refusal(path: Path, found: Sequence[str]) -> str:
    if not found:
        why = "holds results that do not say what they were made from"
    else:
        more = [f"... and {len(found) - TOLD} more"] if len(found) > TOLD else []
        why = "was made with other settings or inputs:\n" + "\n".join(f"  {line}" for line in [*found[:TOLD], *more])
    return f"{path} {why}\ngive another output_dir, or overwrite=true to delete what is there and start again"


def _delete(path: Path, results: Sequence[str]) -> None:
    (path / RUN_FILE).unlink(missing_ok=True)  # first: what is left of a deletion that was cut short has no identity
    for pattern in results:
        for found in list(path.glob(pattern)):
            remove(found)


def _delete_parts(path: Path, results: Sequence[str]) -> None:
    """What killed processes were publishing."""
    for pattern in results:
        for suffix in (PART, OLD):
            for found in list(path.glob(f"{pattern}.*{suffix}")):
                remove(found)


def _write(path: Path, record: RunRecord) -> None:
    write_text(path / RUN_FILE, json.dumps(asdict(record), indent=1) + "\n")


def _named(places: Places) -> Any:
    if places is None:
        return None
    if isinstance(places, str | Path):
        return os.path.abspath(places) if os.path.exists(places) else str(places)  # a name of the hub
    return [_named(place) for place in places]


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Jobs that start together look at the folder, and write to it, one after the other."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _locked(file: IO[bytes], kind: int) -> bool:
    """Whether the lock could be had; it lasts until the file is closed or the process ends, however it ends."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
