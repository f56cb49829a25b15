"""In which order a unit corpus is read: strategies for the groups of its files, and for the rows of a block.

A block is some groups of rows, read and packed together, so that memory does not grow with the corpus. An order
therefore works at two levels; with one group it is exact, with many it is as fine as a group. Packing then moves
sequences within a window. `usdm.data.curriculum` has orders that are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from usdm.data.curriculum import Unlabelled
from usdm.data.unit_corpus import SCHEMA, RowGroup, UnitCorpus
from usdm.types import InputError


class Order(Protocol):
    """A strategy; `random` is the epoch's own generator."""

    @property
    def exact(self) -> bool:
        """Packing keeps the order."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What `rows` needs to see."""

    def groups(self, corpus: UnitCorpus, random: np.random.Generator) -> list[RowGroup]:
        """All groups of rows, in order."""

    def rows(self, table: pa.Table, random: np.random.Generator) -> list[int]:
        """All rows of a block, in order."""


@dataclass(frozen=True)
class Shuffled:
    """Groups anyhow, rows anyhow; in fine-tuning examples anyhow.

    Args:
        exact: packing keeps the order, as it does with a curriculum, which can so be compared with none.
    """

    exact: bool = False
    columns = ()

    def examples(self, examples: Sequence[Unlabelled], random: np.random.Generator) -> list[int]:
        return list(random.permutation(len(examples)).tolist())

    def groups(self, corpus: UnitCorpus, random: np.random.Generator) -> list[RowGroup]:
        return [corpus.groups[index] for index in random.permutation(len(corpus.groups)).tolist()]

    def rows(self, table: pa.Table, random: np.random.Generator) -> list[int]:
        return list(random.permutation(len(table)).tolist())


@dataclass(frozen=True)
class SortedBy:
    """A curriculum: rows by a column, groups by their mean of it; a list counts as its length.

    Raises:
        InputError: a unit corpus has no such column, or one that is neither a number nor a list.
    """

    column: str
    descending: bool = False
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        ranked = [field.name for field in SCHEMA if pa.types.is_list(field.type) or pa.types.is_integer(field.type)]
        if self.column not in ranked:
            raise InputError(f"column={self.column!r}: a corpus can be sorted by {', '.join(ranked)}")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def groups(self, corpus: UnitCorpus, random: np.random.Generator) -> list[RowGroup]:
        means = [float(self._ranks(corpus.read([group], self.columns)).mean()) for group in corpus.groups]
        return [corpus.groups[index] for index in np.argsort(means, kind="stable")]

    def rows(self, table: pa.Table, random: np.random.Generator) -> list[int]:
        return list(np.argsort(self._ranks(table), kind="stable").tolist())

    def _ranks(self, table: pa.Table) -> np.ndarray:
        """(R,): what comes first is least."""
        column = table[self.column]
        if pa.types.is_list(column.type):
            column = pc.list_value_length(column)
        return column.to_numpy() * (-1 if self.descending else 1)


@dataclass(frozen=True)
class Interleaved:
    """A group of each corpus in turn, so that none is long unheard; rows anyhow. A folder of files is a corpus."""

    exact: ClassVar[bool] = False
    columns = ()

    def groups(self, corpus: UnitCorpus, random: np.random.Generator) -> list[RowGroup]:
        by_corpus: dict[Path, list[RowGroup]] = {}
        for group in Shuffled().groups(corpus, random):
            by_corpus.setdefault(corpus.files[group.file].parent, []).append(group)
        turns = zip_longest(*(by_corpus[folder] for folder in sorted(by_corpus)))
        return [group for turn in turns for group in turn if group is not None]

    def rows(self, table: pa.Table, random: np.random.Generator) -> list[int]:
        return Shuffled().rows(table, random)
