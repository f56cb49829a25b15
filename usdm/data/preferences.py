"""Pairs of replies, of which one is preferred: read from a file, and packed into rows pair by pair.

A file of pairs is .jsonl, one object a line, or .parquet with the same three columns:

    {"prompt": {"user_units": [5, 5, 17], "user_text": "a table for two", "history": [["agent", "hello"]]},
     "chosen": {"agent_text": "for what time?", "agent_units": [3, 3, 8]},
     "rejected": {"agent_text": "it is sunny", "agent_units": [4, 9]}}

`prompt` holds what both have in common, `chosen` and `rejected` what differs; together they are the content of a turn
(`usdm.tokens.TurnContent`), as its layout wants it. So a transcript can be preferred as well as a reply. `history` are
earlier turns, each as role and text; it may be left out. A fourth entry, `source`, may say where a pair is from.

A folder of pairs has such a file for each split: `train.jsonl`, `dev.jsonl`, `test.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from usdm.data.packing import PackedRow, build_row
from usdm.data.sequences import TrainingSequence
from usdm.interleave import keyed_generator
from usdm.tokens import IGNORED, DialogTemplate, TurnContent
from usdm.tokens.template import normalise_text
from usdm.types import InputError, Role, Turn

SIDES = ("prompt", "chosen", "rejected")
SOURCE = "source"
HISTORY = "history"
SHOWN = 60  # characters of a value that a message shows


class PreferencePair(NamedTuple):
    """Scored is what comes after the part that both begin with: of that part both have the same probability."""

    chosen: TrainingSequence
    rejected: TrainingSequence


class PreferenceRows(IterableDataset[PackedRow]):
    """Rows of whole pairs, epoch after epoch, in an order that the seed fixes.

    In each row the scored sequences are chosen, rejected, chosen, rejected, and so on.

    Args:
        pairs: none longer than a row.
        max_length: ids of a row.
        pad_id: fills what stays free.
        seed: fixes the order.
        start_row: go on from this row.
        epochs: stop after so many; None reads on for ever.
    """

    def __init__(
        self,
        pairs: Sequence[PreferencePair],
        max_length: int,
        pad_id: int,
        *,
        seed: int = 0,
        start_row: int = 0,
        epochs: int | None = None,
    ) -> None:
        self.pairs, self.max_length, self.pad_id = pairs, max_length, pad_id
        self.seed, self.start_row, self.epochs = seed, start_row, epochs

    def __iter__(self) -> Iterator[PackedRow]:
        row_number = epoch = 0
        while self.epochs is None or epoch < self.epochs:
            order = keyed_generator(self.seed, epoch, "order of pairs").permutation(len(self.pairs)).tolist()
            for row in _filled([self.pairs[index] for index in order], self.max_length):
                row_number += 1
                if row_number > self.start_row:
                    yield build_row([each for pair in row for each in pair], self.max_length, self.pad_id)
            epoch += 1


def _filled(pairs: Sequence[PreferencePair], max_length: int) -> Iterator[list[PreferencePair]]:
    """Rows of pairs in their order, each as full as the next pair lets it be."""
    row: list[PreferencePair] = []
    used = 0
    for pair in pairs:
        if row and used + ids_of(pair) > max_length:
            yield row
            row, used = [], 0
        row.append(pair)
        used += ids_of(pair)
    if row:
        yield row


def ids_of(pair: PreferencePair) -> int:
    """Of both sequences."""
    return sum(len(sequence.input_ids) for sequence in pair)


def read_pairs(
    path: str | Path,
    template: DialogTemplate,
    layout: str | None,
    max_length: int,
    stage: str | None = None,
) -> list[PreferencePair]:
    """The pairs of a file (see the module), as the template writes them.

    Args:
        layout: name of the turn layout; None is the template's own.
        max_length: of a pair, in ids.
        stage: the last that is written, such as "respond" for replies that were not spoken; None: all of the layout.

    Raises:
        InputError: there is no such file, it has another layout, or a pair lacks something, is longer, or is one reply
            twice; with the pair's number.
    """
    pairs = []
    for number, given in enumerate(_rows(Path(path)), start=1):
        try:
            pair = _pair(given, template, layout, stage)
            if (length := ids_of(pair)) > max_length:
                raise InputError(
                    f"{length} ids do not fit rows of {max_length}: raise loop.max_length, or drop the pair"
                )
        except InputError as error:
            raise InputError(f"{path}, pair {number}: {error}") from error
        pairs.append(pair)
    if not pairs:
        raise InputError(f"{path} holds no pair; write one object with {', '.join(SIDES)} a line")
    return pairs


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix not in (".jsonl", ".parquet") or not path.is_file():
        raise InputError(f"{path}: give a .jsonl or a .parquet file that is there")
    if path.suffix == ".parquet":
        try:
            table = pq.read_table(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no Parquet file ({error}); make it again") from error
        yield from table.to_pylist()
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: no JSON ({error}); write one object a line") from error


class GivenPair(NamedTuple):
    """A pair as content, before a template writes it."""

    prompt: str  # names what both sides have in common: pairs with the same belong together
    history: list[Turn]
    chosen: TurnContent
    rejected: TurnContent
    source: str | None


def given_pairs(path: str | Path) -> Iterator[GivenPair]:
    """The pairs of a file. Raises InputError as `read_pairs` does, but for what a template finds."""
    number = 0
    for number, given in enumerate(_rows(Path(path)), start=1):
        try:
            prompt, history = _prompt(given)
            chosen, rejected = (_content({**prompt, **_present(given[side])}) for side in ("chosen", "rejected"))
        except InputError as error:
            raise InputError(f"{path}, pair {number}: {error}") from error
        key = json.dumps(given["prompt"], sort_keys=True)
        yield GivenPair(key, history, chosen, rejected, given.get(SOURCE))
    if not number:
        raise InputError(f"{path} holds no pair; write one object with {', '.join(SIDES)} a line")


class Judged(NamedTuple):
    """A question and two replies to it, of which the first is preferred."""

    content: TurnContent  # with `reply_a` and `reply_b`
    history: list[Turn]
    source: str | None


def read_judged(folders: Sequence[str | Path], split: str) -> list[Judged]:
    """The pairs of a split in folders of pairs, as a judge is asked about them.

    Raises InputError if a folder has no such file, or a pair lacks a reply in text, or has the same one twice.
    """
    found = []
    for folder in folders:
        path = Path(folder) / f"{split}.jsonl"
        for number, given in enumerate(_rows(path), start=1):
            try:
                prompt, history = _prompt(given)
                replies = [given[side].get("agent_text") for side in ("chosen", "rejected")]
                if not all(isinstance(reply, str) and reply for reply in replies):
                    raise InputError("chosen and rejected need an agent_text each, for a judge to read")
                if normalise_text(replies[0]) == normalise_text(replies[1]):
                    raise InputError("chosen and rejected are the same reply: drop the pair, it says nothing")
                content = replace(_content(prompt), reply_a=replies[0], reply_b=replies[1])
            except InputError as error:
                raise InputError(f"{path}, pair {number}: {error}") from error
            found.append(Judged(content, history, given.get(SOURCE)))
    return found


def _prompt(given: Any) -> tuple[dict[str, Any], list[Turn]]:
    """What a pair has in common, and the turns before it."""
    if (
        not isinstance(given, dict)
        or set(given) - {SOURCE} != set(SIDES)
        or not all(isinstance(given[side], dict) for side in SIDES)
    ):
        raise InputError(f"give an object with {', '.join(SIDES)}, each an object itself")
    prompt = _present(given["prompt"])
    try:
        history = [Turn(role, text) for role, text in prompt.pop(HISTORY, [])]
    except (TypeError, ValueError) as error:
        raise InputError(f"{HISTORY} holds pairs of role and text ({error})") from error
    for turn in history:
        if turn.role not in get_args(Role) or not isinstance(turn.text, str):
            raise InputError(
                f"{HISTORY}: [{turn.role!r}, {turn.text!r}] is no role of {', '.join(get_args(Role))} and a text"
            )
    return prompt, history


def _pair(given: Any, template: DialogTemplate, layout: str | None, stage: str | None) -> PreferencePair:
    prompt, history = _prompt(given)
    chosen, rejected = (
        template.training_example(_content({**prompt, **_present(given[side])}), history, layout, stage)
        for side in ("chosen", "rejected")
    )
    shorter = min(len(chosen.input_ids), len(rejected.input_ids))
    differ = torch.nonzero(chosen.input_ids[:shorter] != rejected.input_ids[:shorter])
    if not len(differ):
        raise InputError("chosen and rejected are written alike: drop the pair, it says nothing")
    first = int(differ[0])
    return PreferencePair(*(_sequence(example.input_ids, example.labels, first) for example in (chosen, rejected)))


def _present(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a Parquet file has as null."""
    return {key: value for key, value in given.items() if value is not None}


def _content(given: Mapping[str, Any]) -> TurnContent:
    known = [field.name for field in fields(TurnContent)]
    if unknown := sorted(set(given) - set(known)):
        raise InputError(f"{', '.join(unknown)}: a turn has {', '.join(known)}, and a prompt {HISTORY} besides")
    for key, value in given.items():
        if not (_are_units(value) if key.endswith("units") else isinstance(value, str)):
            wanted = "units are whole numbers in a list" if key.endswith("units") else "it is a text"
            raise InputError(f"{key}={str(value)[:SHOWN]}: {wanted}; write it so, or drop the pair")
    units = {key: torch.tensor(value, dtype=torch.int64) for key, value in given.items() if key.endswith("units")}
    return TurnContent(**{**given, **units})


def _are_units(value: Any) -> bool:
    return isinstance(value, list) and all(type(unit) is int for unit in value)


def _sequence(ids: torch.Tensor, labels: torch.Tensor, first: int) -> TrainingSequence:
    """Scored from id `first` on."""
    scored: NDArray[np.int32] = labels.numpy().astype(np.int32)
    scored[:first] = IGNORED
    return TrainingSequence(ids.numpy().astype(np.int32), scored, np.zeros(len(ids), np.int8))
