"""Questions with options in KMMLU's format (arXiv 2402.11548): `SUBJECT-SPLIT.csv` or `.jsonl`, in any depth.

Columns `question`, `A` to `D` and `answer` (1 to 4), as `HAERAE-HUB/KMMLU` has them; split `test` is asked, `dev` has
the examples of few-shot prompts. Two more columns are this project's own: `audio` (a recording of the question, a path
from the file's folder) and `cluster` (questions of one cluster are drawn together where intervals are made).
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usdm.types import InputError

LETTERS = ("A", "B", "C", "D")
COLUMNS = ("question", *LETTERS, "answer")
FORMAT = "SUBJECT-test.csv or SUBJECT-test.jsonl with question, A, B, C, D and answer (1 to 4)"


@dataclass(frozen=True)
class ChoiceItem:
    """One question."""

    id: str
    subject: str
    question: str
    options: tuple[str, ...]  # as many as `LETTERS`
    answer: int  # place in `options`
    cluster: str
    audio: Path | None = None  # the question as it was said


def subject_files(folder: str | Path, split: str = "test") -> dict[str, Path]:
    """By subject. Raises InputError if two files have the same subject."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for ending in ("csv", "jsonl"):
        for path in sorted(Path(folder).rglob(f"*-{split}.{ending}")):
            found[path.name.removesuffix(f"-{split}.{ending}")].append(path)
    if twice := [subject for subject, paths in found.items() if len(paths) > 1]:
        raise InputError(f"{folder}: {twice[0]} is there twice, {', '.join(map(str, found[twice[0]]))}; leave one")
    return {subject: paths[0] for subject, paths in sorted(found.items())}


def read_choices(folder: str | Path, limit: int | None = None) -> list[ChoiceItem]:
    """Those of all subjects.

    Args:
        limit: of each subject, the first ones; None: all.

    Raises:
        InputError: no file of the format is there, or a row is another one.
    """
    files = subject_files(folder)
    if not files:
        raise InputError(f"{folder}: no file of KMMLU's format there; it wants {FORMAT}")
    return [
        _item(subject, number, row, path)
        for subject, path in files.items()
        for number, row in enumerate(read_rows(path)[:limit])
    ]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Raises InputError for lines that are no JSON objects, or a file without rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]
    except ValueError as error:
        raise InputError(f"{path}: not {path.suffix} in UTF-8 ({error}); it wants {FORMAT}") from error
    if not rows:
        raise InputError(f"{path}: no row in it; it wants {FORMAT}")
    return rows


def _item(subject: str, number: int, row: Mapping[str, Any], path: Path) -> ChoiceItem:
    where, name = f"{path}, row {number + 1}", f"{subject}-{number:05d}"
    if not isinstance(row, dict) or (missing := [key for key in COLUMNS if row.get(key) in (None, "")]):
        lacking = "" if not isinstance(row, dict) else f" without {', '.join(missing)}"
        raise InputError(f"{where}: a row{lacking}; it wants {FORMAT}")
    options = tuple(str(row[letter]).strip() for letter in LETTERS)
    if str(row["answer"]) not in ("1", "2", "3", "4"):
        raise InputError(f"{where}: answer={row['answer']!r}; give the number of the right option, 1 to 4")
    audio = path.parent / row["audio"] if row.get("audio") else None
    if audio is not None and not audio.is_file():
        raise InputError(f"{where}: audio={row['audio']}: no such file from {path.parent}")
    cluster = str(row.get("cluster") or name)
    return ChoiceItem(name, subject, str(row["question"]).strip(), options, int(row["answer"]) - 1, cluster, audio)
