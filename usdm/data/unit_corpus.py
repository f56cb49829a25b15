"""Unit corpora: what the language model learns from, in Parquet files.

One row an utterance: `id`, `speaker`, `role`, `dialog`, `turn`, `split`, `text` (as written in the dialog, lower
case with punctuation), `units` (list<uint16>), `words` and `word_ends` (in units; see
`usdm.interleave.SpokenWords`; empty where word times are not known). Under the key `usdm` every file says which
units it holds, and no other units are ever read from it by mistake.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from usdm.runs import read_run
from usdm.types import InputError

METADATA_KEY = b"usdm"
SOURCE_FILE = "unit_source.json"
OPEN_FILES = 64  # at once; a corpus of millions of utterances has thousands
ROWS_PER_GROUP = 512  # small groups: blocks drawn from many of them mix well
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("speaker", pa.string()),
        ("role", pa.string()),
        ("dialog", pa.string()),
        ("turn", pa.int32()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("units", pa.list_(pa.uint16())),
        ("words", pa.list_(pa.string())),
        ("word_ends", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class UnitSource:
    """Which units these are: the same numbers mean another sound under other centroids."""

    num_units: int
    unit_rate: float  # Hz
    centroid_hash: str  # the tokenizer's identity; of SSL units that is the hash of their centroids

    def check(self, other: UnitSource, ours: str, theirs: str) -> None:
        """Raises InputError that names both sides of every difference; `ours`, `theirs`: where they come from."""
        mine, its = asdict(self), asdict(other)
        if different := [key for key in mine if mine[key] != its[key]]:
            facts = ", ".join(f"{key} {mine[key]} against {its[key]}" for key in different)
            raise InputError(f"{ours} and {theirs} hold different units: {facts}; extract the units again")

    def save(self, folder: str | Path) -> None:
        """Write `unit_source.json`, so that a model says which units it was trained on."""
        (Path(folder) / SOURCE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> UnitSource | None:
        """`unit_source.json` in `folder`, None where there is none (published checkpoints)."""
        path = Path(folder) / SOURCE_FILE
        return cls._parse(path.read_bytes(), str(path)) if path.is_file() else None

    @classmethod
    def _parse(cls, text: str | bytes, where: str) -> UnitSource:
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: does not say which units it holds ({error}); extract them again") from error


@dataclass(frozen=True)
class UnitUtterance:
    """One row."""

    id: str
    speaker: str
    role: str
    dialog: str
    turn: int
    split: str
    text: str
    units: NDArray[np.uint16]  # (U,)
    words: tuple[str, ...] = ()  # W of them
    word_ends: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))  # (W,)


class UnitCorpusWriter:
    """Writes one file, under its name only once it is complete: `with UnitCorpusWriter(path, source) as writer`.

    Raises InputError for units outside `source` or word ends that do not partition them.
    """

    def __init__(self, path: str | Path, source: UnitSource, rows_per_group: int = ROWS_PER_GROUP) -> None:
        if source.num_units > 2**16:
            raise InputError(f"num_units={source.num_units}: a unit corpus holds at most {2**16} (uint16)")
        self.path, self.source, self._rows_per_group = Path(path), source, rows_per_group
        self._part = self.path.with_name(self.path.name + ".part")
        self._rows: list[dict[str, object]] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(asdict(source)).encode()})
        self._writer = pq.ParquetWriter(self._part, schema, compression="zstd")

    def write(self, utterance: UnitUtterance) -> None:
        self._check(utterance)
        self._rows.append({name: getattr(utterance, name) for name in SCHEMA.names})
        if len(self._rows) == self._rows_per_group:
            self._flush()

    def __enter__(self) -> UnitCorpusWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            os.replace(self._part, self.path)
        else:
            self._part.unlink()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._writer.schema))
            self._rows.clear()

    def _check(self, utterance: UnitUtterance) -> None:
        units, ends = np.asarray(utterance.units), np.asarray(utterance.word_ends)
        if len(units) and not 0 <= units.min() <= units.max() < self.source.num_units:
            raise InputError(
                f"{utterance.id}: unit {units.max()} is outside 0..{self.source.num_units - 1}; use the extractor "
                "that the corpus is for"
            )
        if len(ends) != len(utterance.words):
            raise InputError(f"{utterance.id}: {len(utterance.words)} words but {len(ends)} word ends")
        if len(ends) and (ends[-1] != len(units) or (np.diff(ends, prepend=0) < 1).any()):
            raise InputError(
                f"{utterance.id}: word ends {ends.tolist()} do not partition {len(units)} units; use "
                "usdm.interleave.spoken_words"
            )


@dataclass(frozen=True)
class RowGroup:
    """A part of a corpus that is read at once."""

    file: int
    index: int
    units: int  # of all splits


class UnitCorpus:
    """Reads one or more files as one corpus, a group of rows at a time. Some files at most are open at once.

    Args:
        paths: Parquet files, or folders of them.

    Raises:
        InputError: nothing there, a folder whose run has not ended, a file is damaged or no unit corpus, or the files
            hold different units.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path]) -> None:
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        self.files = [file for path in given for file in _parquet_files(Path(path))]
        self.groups: list[RowGroup] = []
        for number, file in enumerate(self.files):
            with _open(file) as parquet:
                source = _read_source(parquet, file)
                units = [_units_in(parquet.metadata.row_group(index)) for index in range(parquet.num_row_groups)]
            if number == 0:
                self.source = source
            self.source.check(source, str(self.files[0]), str(file))
            self.groups += [RowGroup(number, index, count) for index, count in enumerate(units)]
        self._opened: OrderedDict[int, pq.ParquetFile] = OrderedDict()  # by number, the one used last at the end

    def check_num_units(self, num_units: int) -> None:
        """Raises InputError that names both sides if a vocabulary has another number of units."""
        if self.source.num_units != num_units:
            raise InputError(
                f"{self.files[0]} has {self.source.num_units} units, the vocabulary {num_units}: extract units with "
                "the model's own extractor"
            )

    def read(self, groups: Sequence[RowGroup], columns: Sequence[str], split: str | None = None) -> pa.Table:
        """The rows of some groups, in order; `split` None takes all splits."""
        needed = list(dict.fromkeys([*columns, "split"]))
        tables = [self._read_group(group, needed) for group in groups]
        table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        return table.select(list(columns)).combine_chunks()

    def _read_group(self, group: RowGroup, columns: list[str]) -> pa.Table:
        try:
            return self._opened_file(group.file).read_row_group(group.index, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.files[group.file]}: damaged ({error}); extract the units again") from error

    def _opened_file(self, number: int) -> pq.ParquetFile:
        if number not in self._opened:
            self._opened[number] = _open(self.files[number])
            if len(self._opened) > OPEN_FILES:
                self._opened.popitem(last=False)[1].close()
        self._opened.move_to_end(number)
        return self._opened[number]

    def names(self) -> set[str]:
        """Ids of all utterances, and of the dialogs that they are turns of."""
        return {
            name
            for group in self.groups
            for column in self.read([group], ["id", "dialog"])
            for name in column.to_pylist()
        }

    def utterances(self, split: str | None = None) -> Iterator[UnitUtterance]:
        """Every row in order, one group in memory at a time."""
        for group in self.groups:
            for row in self.read([group], SCHEMA.names, split).to_pylist():
                row["units"] = np.asarray(row["units"], dtype=np.uint16)
                row["word_ends"] = np.asarray(row["word_ends"], dtype=np.int32)
                yield UnitUtterance(**{**row, "words": tuple(row["words"])})


def _parquet_files(path: Path) -> list[Path]:
    files = [path]
    if path.is_dir():
        _check_finished(path)
        files = sorted(path.glob("*.parquet"))
    if not files or not files[0].is_file():
        raise InputError(f"{path}: no unit corpus there; give a .parquet file or a folder of them")
    return files


def _check_finished(folder: Path) -> None:
    """Or part of a corpus would be trained on. Raises InputError where the run that makes it has not ended."""
    run = read_run(folder)
    if run is not None and not run.done:
        raise InputError(
            f"{folder}: its units are not all there, for the run that makes them has not ended; wait for it, or go on "
            f"with it: {run.command or 'the command that began it'}"
        )


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: damaged or no Parquet file ({error}); extract the units again") from error


def _read_source(parquet: pq.ParquetFile, file: Path) -> UnitSource:
    metadata = parquet.schema_arrow.metadata or {}
    if METADATA_KEY not in metadata or not parquet.schema_arrow.equals(SCHEMA):
        raise InputError(f"{file}: a Parquet file, but no unit corpus; give one that extract_units wrote")
    return UnitSource._parse(metadata[METADATA_KEY], str(file))


def _units_in(group: pq.RowGroupMetaData) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    return next(column.num_values for column in columns if column.path_in_schema.startswith("units."))
