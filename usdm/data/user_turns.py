"""What users say, each turn alone, for what hears one turn: classifiers, and detectors of turns outside a domain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from usdm.data.labels import Labels, check_known
from usdm.data.unit_corpus import UnitCorpus, UnitSource
from usdm.types import InputError

COLUMNS = ("id", "dialog", "role", "split", "text", "units")


@dataclass(frozen=True)
class UserTurn:
    """One turn of a user."""

    id: str
    dialog: str
    split: str
    text: str  # "" where it is not known
    units: Tensor | None  # (U,) int64; None of text alone


def read_user_turns(corpora: Sequence[str | Path]) -> list[UserTurn]:
    """The user turns of all splits: of unit corpora with their units, of a `dialogs.jsonl` as text alone.

    Raises InputError if there are none, or a corpus cannot be read.
    """
    turns = [turn for corpus in corpora for turn in _turns(Path(corpus))]
    if not turns:
        raise InputError(f"corpora={[str(corpus) for corpus in corpora]}: no user says anything in them")
    return turns


def check_units(corpora: Sequence[str | Path], known: UnitSource | None, whose: str) -> None:
    """Raises InputError for a corpus of other units than a model knows. `known`: None where it does not say which."""
    for corpus in corpora:
        if known is not None and Path(corpus).suffix != ".jsonl":
            known.check(UnitCorpus(corpus).source, whose, str(corpus))


def with_labels(turns: Sequence[UserTurn], labels: Labels) -> list[tuple[UserTurn, str]]:
    """The turns that have a label, with it. Raises InputError for labels of unknown ids, and if no turn has one."""
    check_known(labels.where, labels.by_id, {turn.id for turn in turns} | {turn.dialog for turn in turns})
    return [(turn, label) for turn in turns if (label := labels.of(turn.id, turn.dialog)) is not None]


def _turns(corpus: Path) -> Iterator[UserTurn]:
    if corpus.suffix == ".jsonl":
        yield from _typed(corpus)
        return
    units = UnitCorpus(corpus)
    for group in units.groups:
        for row in units.read([group], COLUMNS).to_pylist():
            if row["role"] == "user" and row["units"]:
                heard = torch.tensor(row["units"], dtype=torch.int64)
                yield UserTurn(row["id"], row["dialog"], row["split"], row["text"], heard)


def _typed(path: Path) -> Iterator[UserTurn]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder of units, or the {path.name} of prepared dialogs")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield from _of_dialog(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number} is no dialog ({error!r}): need dialog, split, turns") from error


def _of_dialog(row: Any) -> Iterator[UserTurn]:
    for place, turn in enumerate(row["turns"]):
        if turn["role"] == "user":
            yield UserTurn(f"{row['dialog']}-{place}", row["dialog"], row["split"], turn["text"], None)
