"""Results kept line by line, so that a long run can go on where it stopped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

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
    """
    known = {entry.key: entry for entry in read_entries(path, kind) if entry.error is None and entry.key in work}
    if known:
        logger.info("%s: %d of %d items are there already", path, len(known), len(work))
    _write(path, known.values())
    entries = []
    with path.open("a", encoding="utf-8") as file:
        for number, (key, job) in enumerate(work.items(), start=1):
            if (entry := known.get(key)) is None:
                entry = job()
                file.write(_line(entry))
                file.flush()
            entries.append(entry)
            progress(number, len(work))
    _write(path, entries)
    return entries


def read_entries(path: Path, kind: type[AnyEntry]) -> Iterator[AnyEntry]:
    """Results of an earlier run; a line that was cut off when it ended is left out, with a warning."""
    if not path.is_file():
        return
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            entry = kind(**{name: value for name, value in row.items() if name in names})
        except (ValueError, TypeError, AttributeError):
            logger.warning("%s: a line cannot be read, its item is computed again: %.60s", path, line)
            continue
        yield entry


def write_atomically(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _write(path: Path, entries: Iterable[Entry]) -> None:
    write_atomically(path, "".join(map(_line, entries)))


def _line(entry: Entry) -> str:
    return json.dumps(entry.row(), ensure_ascii=False) + "\n"
