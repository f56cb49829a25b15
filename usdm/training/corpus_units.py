"""The units of a speech corpus' utterances, for what learns to make sound of them."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from usdm.data.speech_corpus import Utterance
from usdm.data.unit_corpus import UnitCorpus
from usdm.data.utterance_index import UtteranceIndex
from usdm.types import InputError

logger = logging.getLogger(__name__)


class UnitsById(Mapping[str, Tensor]):
    """Units (U,) int64 of each utterance of a corpus by its id; 2 bytes a unit in memory.

    Raises InputError if an id is there twice.
    """

    def __init__(self, corpus: UnitCorpus) -> None:
        self._rows: dict[str, int] = {}
        parts, lengths, row = [np.empty(0, np.uint16)], [np.zeros(1, np.int64)], itertools.count()
        for group in corpus.groups:
            table = corpus.read([group], ["id", "units"])
            self._rows |= {name: next(row) for name in table["id"].to_pylist()}
            parts.append(pc.list_flatten(table["units"]).to_numpy())
            lengths.append(pc.list_value_length(table["units"]).to_numpy().astype(np.int64))
        if (twice := next(row) - len(self._rows)) > 0:
            raise InputError(
                f"{', '.join(map(str, corpus.files[:3]))}: {twice} ids are there a second time, with units of their "
                "own: give corpora of different utterances, or rename them and extract their units again"
            )
        self._units, self._ends = np.concatenate(parts), np.cumsum(np.concatenate(lengths))

    def __getitem__(self, name: str) -> Tensor:
        row = self._rows[name]
        return torch.from_numpy(self._units[self._ends[row] : self._ends[row + 1]].astype(np.int64))

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def units_by_id(corpus: UnitCorpus, num_units: int, unit_rate: float) -> Mapping[str, Tensor]:
    """Utterance id -> units (U,) int64. Raises InputError if they are of another number or rate than wanted."""
    source = corpus.source
    for name, given, wanted in (
        ("num_units", source.num_units, num_units),
        ("unit_rate", source.unit_rate, unit_rate),
    ):
        if given != wanted:
            raise InputError(
                f"{corpus.files[0]} has {name}={given}, but the decoder {wanted}: make them agree, or extract the "
                "units again"
            )
    return UnitsById(corpus)


def utterances_with_units(
    corpora: Sequence[str | Path],
    split: str,
    roles: Sequence[str] | None,
    units: Container[str],
    of_speakers: Sequence[str] | None = None,
) -> tuple[UtteranceIndex, set[str]]:
    """The utterances to learn from, and their speakers. Those without units are left out, and counted in the log.

    Raises InputError if nothing is left.
    """
    met: Counter[str] = Counter()
    speakers = set()

    def is_wanted(utterance: Utterance) -> bool:
        has_role = roles is None or utterance.role in roles
        has_role &= of_speakers is None or utterance.speaker in of_speakers
        has_units = utterance.id in units
        met.update({"all": 1, "wanted": has_role})
        if has_role and has_units:
            speakers.add(utterance.speaker)
        return has_role and has_units

    known = UtteranceIndex.read(corpora, split, is_wanted)
    if not len(known):
        raise InputError(
            f"{', '.join(map(str, corpora))}: of {met['all']} utterances of split {split!r} {met['wanted']} are of "
            f"roles {roles or 'any'} and speakers {of_speakers or 'any'}, none of them has units: extract the units of "
            "this corpus first"
        )
    if left_out := met["wanted"] - len(known):
        logger.warning("%d of %d utterances have no units and are left out", left_out, met["wanted"])
    return known, speakers


def evenly_spread(utterances: UtteranceIndex, count: int) -> UtteranceIndex:
    """At most `count` of them, evenly spread."""
    return utterances.take(slice(None, None, max(1, len(utterances) // count))).take(slice(count))
