"""Results kept line by line, so that a long run can go on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from usdm.runs import JsonLines, read_lines
from usdm.types import InputError

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # items done, items in all


class Entry(Protocol):
    """A dataclass of one item's results; `row` may add what follows from its fields."""

    @property
    def key(self) -> str:
        """Digest of all that the results depend on."""

    @property
    def error(self) -> str | None:
        """Why the item failed."""

    def row(self) -> dict[str, Any]: ...


AnyEntry = TypeVar("AnyEntry", bound=Entry)


def complete(
    path: Path, kind: type[AnyEntry], work: Mapping[str, Callable[[], AnyEntry]], progress: Progress
) -> list[AnyEntry]:
    """Results of all `work`, by key; what the file has under the same key and did not fail is taken from there.

    Afterwards the file holds these results and no others, in the order of `work`.

    Raises InputError if another run is at work on the file, or if a line of it cannot be read.
    """
    with JsonLines(path) as lines:
        earlier = [entry for entry in _entries(lines.rows(), kind) if entry.error is None and entry.key in work]
        known = {entry.key: entry for entry in earlier}
        if known:
            logger.info("%s: %d of %d items are there already", path, len(known), len(work))
        lines.replace(entry.row() for entry in known.values())
        entries = []
        for number, (key, job) in enumerate(work.items(), start=1):
            if (entry := known.get(key)) is None:
                entry = job()
                lines.append(entry.row())
            entries.append(entry)
            progress(number, len(work))
        lines.replace(entry.row() for entry in entries)
    return entries


def finished(path: Path, kind: type[AnyEntry], keys: Iterable[str]) -> list[AnyEntry]:
    """Of the results under `keys` those that are there, in their order; another run may be at work on the file.

    Raises InputError if there are none.
    """
    known = {entry.key: entry for entry in _entries(read_lines(path), kind)}
    entries = [known[key] for key in keys if key in known]
    if not entries:
        raise InputError(
            f"so_far=true: {path} has no result of this model, these settings and these items yet; run the same "
            "command without so_far first, or beside it"
        )
    return entries


def _entries(rows: Iterable[Mapping[str, Any]], kind: type[AnyEntry]) -> Iterator[AnyEntry]:
    """Results of an earlier run; a row of another version, which lacks a field, is computed again."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for row in rows:
        try:
            yield kind(**{name: value for name, value in row.items() if name in names})
        except TypeError:
            logger.warning("a result of another version is computed again: %s", row.get("id"))
