"""Figures over streams of utterances that are too many to keep."""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 40
SHOWN_PERCENT = (0.5, 99.5)  # what the histogram spans; few far values would leave the rest in one bin
SHOWN_OF_A_CONTENT = 5

Item = TypeVar("Item")


@dataclass(frozen=True)
class Distribution:
    """One quantity over many utterances; values beyond the histogram's edges count in its outermost bins."""

    count: int
    mean: float
    minimum: float
    percentile_5: float
    median: float
    percentile_95: float
    maximum: float
    edges: tuple[float, ...]  # BINS + 1
    counts: tuple[int, ...]  # BINS


def distribution(values: ArrayLike) -> Distribution | None:
    """None where there are no values."""
    array_ = np.asarray(values, dtype=np.float64)
    if not len(array_):
        return None
    low, high = np.percentile(array_, SHOWN_PERCENT)
    if high - low < 1e-6 * max(1.0, abs(low)):
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.clip(array_, low, high), BINS, (low, high))
    fifth, median, ninety_fifth = np.percentile(array_, (5, 50, 95)).tolist()
    return Distribution(
        count=len(array_),
        mean=float(array_.mean()),
        minimum=float(array_.min()),
        percentile_5=fifth,
        median=median,
        percentile_95=ninety_fifth,
        maximum=float(array_.max()),
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
    )


class Extremes(Generic[Item]):
    """Keeps the `size` items of a stream with the largest values, or the smallest; of equals the first.

    `size` None keeps all.
    """

    def __init__(self, size: int | None, *, largest: bool = True) -> None:
        self._size, self._sign = size, 1 if largest else -1
        self._heap: list[tuple[float, int, Item]] = []  # the first is the next to go
        self._order = count(0, -1)

    def add(self, value: float, item: Item) -> None:
        entry = (self._sign * value, next(self._order), item)
        if self._size is None or len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        elif self._heap:
            heapq.heappushpop(self._heap, entry)

    def ranked(self) -> list[tuple[float, Item]]:
        """(value, item), the most extreme first."""
        return [(self._sign * value, item) for value, _, item in sorted(self._heap, key=lambda e: e[:2], reverse=True)]


@dataclass(frozen=True)
class Repeats:
    """Contents that several utterances have in common."""

    contents: int
    utterances: int  # that have one of them
    by_split: Mapping[str, int]  # these utterances
    examples: tuple[tuple[str, ...], ...]  # for a content, some of its utterances; the most frequent first


class Rows:
    """The utterances of a corpus, as far as it takes to name them."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._splits = array("H")
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, name: str, split: str) -> int:
        """-> its row number."""
        self.ids.append(name)
        self._splits.append(self._codes.setdefault(split, len(self._codes)))
        return len(self.ids) - 1

    def name(self, row: int) -> str:
        """Its id and split."""
        return f"{self.ids[row]} ({list(self._codes)[self._splits[row]]})"

    def splits(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number for the split of each of some rows."""
        return np.frombuffer(self._splits, np.uint16)[rows].astype(np.int64)

    def by_split(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """How many of some rows lie in each split, where there are any."""
        counts = np.bincount(self.splits(rows), minlength=len(self._codes)).tolist()
        return {split: number for split, number in zip(self._codes, counts, strict=True) if number}


class Fingerprints:
    """Finds contents that occur more than once, in 16 bytes an utterance (8 of them a BLAKE2 hash)."""

    def __init__(self) -> None:
        self._hashes, self._rows = array("Q"), array("Q")

    def add(self, content: str | bytes, row: int) -> None:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        self._hashes.append(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))
        self._rows.append(row)

    def repeats(self, names: Rows, examples: int, *, across_splits: bool = False) -> Repeats:
        """What occurs more than once, or in more than one split; `examples` of it."""
        if not self._hashes:
            return Repeats(0, 0, {}, ())
        hashes, rows = np.frombuffer(self._hashes, np.uint64), np.frombuffer(self._rows, np.uint64).astype(np.int64)
        order = np.argsort(hashes, kind="stable")
        hashes, rows = hashes[order], rows[order]
        starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
        sizes = np.diff(np.append(starts, len(hashes)))
        kept = sizes > 1
        if across_splits:
            splits = names.splits(rows)
            kept &= np.minimum.reduceat(splits, starts) != np.maximum.reduceat(splits, starts)
        groups = [rows[starts[i] : starts[i] + sizes[i]] for i in _largest(sizes, kept, examples)]
        if across_splits:  # one of each split
            groups = [group[np.unique(names.splits(group), return_index=True)[1]] for group in groups]
        return Repeats(
            contents=int(kept.sum()),
            utterances=int(sizes[kept].sum()),
            by_split=names.by_split(rows[np.repeat(kept, sizes)]),
            examples=tuple(tuple(map(names.name, group[:SHOWN_OF_A_CONTENT].tolist())) for group in groups),
        )


def _largest(sizes: NDArray[np.int64], kept: NDArray[np.bool_], number: int) -> NDArray[np.int64]:
    candidates = np.flatnonzero(kept)
    return candidates[np.argsort(-sizes[candidates], kind="stable")[:number]]
