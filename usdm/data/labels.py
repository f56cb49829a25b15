"""Labels beside a corpus: what turns are about, by the ids of their utterances or dialogs.

`labels.jsonl` has one object a line: `id` (of an utterance, or of a dialog and so of all its turns), `label`, and
further keys of one's own with a string each, such as `fine` (a finer label).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from usdm.types import InputError

LABELS_FILE = "labels.jsonl"
NAMED = 3  # ids that a message names


@dataclass(frozen=True)
class Labels:
    """One kind of label, by id."""

    where: str  # the file, for messages
    key: str  # which of a line's labels these are
    by_id: Mapping[str, str]

    @classmethod
    def load(cls, path: str | Path, key: str = "label") -> Labels:
        """Raises InputError if the file is missing or empty, a line has no such label, or an id is there twice."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the {LABELS_FILE} that lies beside a corpus' dialogs")
        by_id: dict[str, str] = {}
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                row = json.loads(line)
                name, label = row["id"], row[key]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}, line {number}: needs `id` and `{key}` ({error!r})") from error
            if not (isinstance(name, str) and isinstance(label, str) and name and label):
                raise InputError(f"{path}, line {number}: id={name!r}, {key}={label!r}: both are texts, and not empty")
            if name in by_id:
                raise InputError(f"{path}, line {number}: {name} was labelled before; keep one of the lines")
            by_id[name] = label
        if not by_id:
            raise InputError(f"{path}: there are no labels in it")
        return cls(str(path), key, by_id)

    def of(self, utterance: str, dialog: str) -> str | None:
        """Of a turn: its own label, or its dialog's; None if it has neither."""
        return self.by_id.get(utterance, self.by_id.get(dialog))


def check_known(where: str, labelled: Collection[str], ids: Collection[str]) -> None:
    """Raises InputError if some labels of the file `where` are of no utterance or dialog among `ids`."""
    if unknown := [name for name in labelled if name not in ids]:
        named = ", ".join(unknown[:NAMED]) + (", ..." if len(unknown) > NAMED else "")
        raise InputError(
            f"{where}: {len(unknown)} of {len(labelled)} labels are of ids that are in no corpus ({named}); "
            "give the corpora that they belong to, or take these lines out"
        )


def labels_text(rows: Iterable[Mapping[str, str]]) -> str:
    """The text of a file of labels. `rows`: `id`, `label` and what else there is."""
    return "".join(json.dumps(dict(row)) + "\n" for row in rows)


def classes_of(labels: Iterable[str]) -> list[str]:
    """The different labels, in order of their names. Raises InputError if there are fewer than two."""
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise InputError(
            f"the labels are of {len(classes)} class{'' if len(classes) == 1 else 'es'} ({', '.join(classes)}): there "
            "is nothing to tell apart; give labels of two or more, or another label_key"
        )
    return classes
