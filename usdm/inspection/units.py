"""What a unit corpus holds: how many of the units are used, how evenly, and whether they fit the sound's length."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from usdm.data.unit_corpus import SCHEMA, UnitCorpus, UnitSource
from usdm.inspection.audio import differs
from usdm.inspection.rows import RowCounter, RowFigures
from usdm.inspection.statistics import Distribution, Fingerprints, Repeats, distribution

TOP_SHARE = 0.01  # of all units


@dataclass(frozen=True)
class UnitUsage:
    """How often each unit occurs."""

    counts: tuple[int, ...]  # K; counts[u] of unit u
    used: int  # of them
    entropy: float  # bits; log2 K if all were used alike
    perplexity: float  # 2 to the entropy: so many units, used alike, would be as varied
    top_share: float  # of all units, those of the most frequent 1 % of K


@dataclass(frozen=True)
class SpeechMatch:
    """Against the speech corpus that the units were extracted from, by id."""

    units_per_second: Distribution | None
    wrong_length: int  # utterances with other than unit_rate units a second, beyond the tolerance
    without_units: int  # utterances of the speech corpus
    without_speech: int  # utterances of the unit corpus


@dataclass(frozen=True)
class UnitFigures:
    files: int
    source: UnitSource
    units: int
    rows: RowFigures  # seconds are units / unit_rate
    without_words: int  # utterances whose word times are not known
    usage: UnitUsage
    run_length: float  # mean number of times that a unit is said in a row
    repeated_sequences: Repeats  # the same units from end to end, of at least a second
    leaking_sequences: Repeats  # the same in more than one split
    speech: SpeechMatch | None  # None where no speech corpus was given

    @property
    def all_in_speech(self) -> bool:
        """Whether the speech corpus has every utterance, so that splits, speakers and text need not be told twice."""
        return self.speech is not None and not self.speech.without_speech


def inspect_units(corpus: UnitCorpus, examples: int, seconds: Mapping[str, float] | None = None) -> UnitFigures:
    """Reads a group of rows at a time.

    Args:
        examples: of what is repeated.
        seconds: by id, the lengths of the utterances of the speech corpus.
    """
    counter = _UnitCounter(corpus.source, seconds)
    for group in tqdm(corpus.groups, unit="group", desc="inspect units"):
        counter.add(corpus.read([group], SCHEMA.names))
    return counter.figures(len(corpus.files), examples)


def unit_usage(counts: NDArray[np.int64]) -> UnitUsage:
    """Of (K,) counts."""
    shares = counts[counts > 0] / max(1, counts.sum())
    entropy = float(-(shares * np.log2(shares)).sum()) + 0.0  # no minus zero
    top = np.sort(counts)[::-1][: int(np.ceil(TOP_SHARE * len(counts)))]
    return UnitUsage(
        counts=tuple(counts.tolist()),
        used=len(shares),
        entropy=entropy,
        perplexity=2**entropy,
        top_share=float(top.sum() / max(1, counts.sum())),
    )


class _UnitCounter:
    def __init__(self, source: UnitSource, seconds: Mapping[str, float] | None) -> None:
        self._source, self._stated = source, seconds
        self._rows, self._sequences = RowCounter(), Fingerprints()
        self._counts = np.zeros(source.num_units, np.int64)
        self._runs = self._without_words = self._wrong_length = self._unknown = 0
        self._rates = array("f")
        self._met: set[str] = set()

    def add(self, table: pa.Table) -> None:
        """Counts one group of rows."""
        units = _flat(table["units"]).astype(np.uint16)
        bounds = _bounds(table["units"])
        self._counts += np.bincount(units, minlength=len(self._counts))
        self._runs += _runs(units, bounds)
        words = _words(table["words"])
        columns = {name: table[name].to_pylist() for name in ("id", "speaker", "role", "dialog", "split", "text")}
        for i, name in enumerate(columns["id"]):
            sequence = units[bounds[i] : bounds[i + 1]]
            self._without_words += not words[i]
            if len(sequence) >= self._source.unit_rate:  # shorter ones are alike by chance
                self._sequences.add(sequence.tobytes(), len(self._rows.rows))
            self._rows.add(
                name,
                speaker=columns["speaker"][i],
                role=columns["role"][i],
                dialog=columns["dialog"][i],
                split=columns["split"][i],
                text=columns["text"][i],
                seconds=len(sequence) / self._source.unit_rate,
                words=int(words[i]) or None,
            )
            if self._stated is not None:
                self._match(name, len(sequence), self._stated.get(name))

    def _match(self, name: str, units: int, seconds: float | None) -> None:
        if seconds is None:
            self._unknown += 1
            return
        self._met.add(name)
        if seconds > 0:
            self._rates.append(units / seconds)
        self._wrong_length += differs(units / self._source.unit_rate, seconds)

    def figures(self, files: int, examples: int) -> UnitFigures:
        rows, units = self._rows.rows, int(self._counts.sum())
        return UnitFigures(
            files=files,
            source=self._source,
            units=units,
            rows=self._rows.figures(examples),
            without_words=self._without_words,
            usage=unit_usage(self._counts),
            run_length=units / max(1, self._runs),
            repeated_sequences=self._sequences.repeats(rows, examples),
            leaking_sequences=self._sequences.repeats(rows, examples, across_splits=True),
            speech=None if self._stated is None else self._speech(self._stated),
        )

    def _speech(self, stated: Mapping[str, float]) -> SpeechMatch:
        return SpeechMatch(
            units_per_second=distribution(self._rates),
            wrong_length=self._wrong_length,
            without_units=len(stated) - len(self._met),
            without_speech=self._unknown,
        )


def _flat(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return pc.list_flatten(column).to_numpy()


def _bounds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """(N + 1,): row i's values lie from bound i to bound i + 1."""
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    return np.concatenate([[0], np.cumsum(lengths)])


def _words(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """(N,): a row's words; one too short for a unit of its own stands with its neighbour, joined by a space."""
    spaces = pc.count_substring(pc.list_flatten(column), " ").to_numpy().astype(np.int64)
    up_to = np.concatenate([[0], np.cumsum(spaces + 1)])
    bounds = _bounds(column)
    return up_to[bounds[1:]] - up_to[bounds[:-1]]


def _runs(units: NDArray[np.uint16], bounds: NDArray[np.int64]) -> int:
    """How many stretches of equal units there are; none goes on from one row to the next."""
    if not len(units):
        return 0
    begins = np.concatenate([[True], units[1:] != units[:-1]])
    begins[bounds[:-1][np.diff(bounds) > 0]] = True
    return int(begins.sum())
