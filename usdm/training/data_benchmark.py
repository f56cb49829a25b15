"""How fast training data is made, and in how much memory: interleaving and packing, away from any model.

The corpus is synthetic (random units under random words), so that its size can be chosen; what is measured depends
on lengths alone. Every measurement has a process of its own, or its peak memory would be another one's.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from usdm.data.packing import PackedRows
from usdm.data.sequences import TrainingSequence
from usdm.data.speech_text import SpeechTextSequences
from usdm.data.unit_corpus import METADATA_KEY, ROWS_PER_GROUP, SCHEMA, UnitCorpus, UnitSource
from usdm.tokens import IGNORED, SpeechTextVocabulary

WORDS_PER_UTTERANCE = 20
UNITS_PER_WORD = 12  # about: 50 units a second, four words a second
LETTERS = "etaoinshrdlucmfwypvbgk"
LEXICON = 5000
GROUPS_AT_ONCE = 64  # while writing

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class DataSpeed:
    """One way of making training rows."""

    way: str
    corpus_units: int
    tokens: int  # padding apart
    seconds: float
    fill: float  # share of the rows' ids that is no padding
    peak_bytes: int  # of the process, its imports included

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def benchmark_data(
    vocabulary: SpeechTextVocabulary, folder: str | Path, *, corpus_units: list[int], max_length: int, rows: int
) -> list[DataSpeed]:
    """Read `rows` rows of `max_length` ids from a corpus of each size, and once by way of text.

    "text" is how the published preparation is described: each sequence is written out as text, read and tokenized
    again, and rows are filled in order. It runs on the first corpus, on a tenth of the rows.

    Args:
        vocabulary: saved into `folder` for the processes that measure.
        folder: for the corpora, which stay there, and `data_benchmark.json`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.save_pretrained(folder)
    found = []
    for number, units in enumerate(corpus_units):
        path = folder / f"{units}.parquet"
        if not path.exists():
            write_synthetic_corpus(path, units, vocabulary.num_units)
        found.append(alone(_read_packed, folder, path, units, max_length, rows))
        if number == 0:
            found.append(alone(_read_by_way_of_text, folder, path, units, max_length, max(1, rows // 10)))
    figures = [asdict(each) | {"tokens_per_second": each.tokens_per_second} for each in found]
    (folder / "data_benchmark.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return found


def write_synthetic_corpus(path: Path, units: int, num_units: int) -> None:
    """A unit corpus of about so many units, in utterances of 20 words (5 s at 50 Hz)."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 10, LEXICON)
    lexicon = np.array(["".join(random.choice(list(LETTERS), length)) for length in lengths])
    source = UnitSource(num_units, 50, "synthetic")
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(asdict(source)).encode()})
    total = max(1, units // (WORDS_PER_UTTERANCE * UNITS_PER_WORD))
    part = path.with_name(path.name + ".part")
    with pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for start in range(0, total, GROUPS_AT_ONCE * ROWS_PER_GROUP):
            count = min(GROUPS_AT_ONCE * ROWS_PER_GROUP, total - start)
            table = _synthetic_rows(start, count, num_units, lexicon, random, schema)
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
    part.replace(path)


def _synthetic_rows(
    start: int, count: int, num_units: int, lexicon: np.ndarray, random: np.random.Generator, schema: pa.Schema
) -> pa.Table:
    spoken = random.integers(1, 2 * UNITS_PER_WORD, (count, WORDS_PER_UTTERANCE))
    ends = np.cumsum(spoken, axis=1).astype(np.int32)
    unit_bounds = np.concatenate([[0], np.cumsum(ends[:, -1])]).astype(np.int32)
    word_bounds = np.arange(count + 1, dtype=np.int32) * WORDS_PER_UTTERANCE
    units = random.integers(0, num_units, unit_bounds[-1]).astype(np.uint16)
    words = pa.array(lexicon[random.integers(0, len(lexicon), count * WORDS_PER_UTTERANCE)])
    # The first utterances of every corpus are left for validation.
    splits = ["dev" if start + row < ROWS_PER_GROUP // 8 else "train" for row in range(count)]
    ids = [f"u{start + row}" for row in range(count)]
    columns = {
        "id": pa.array(ids),
        "speaker": pa.array(["s"] * count),
        "role": pa.array(["user"] * count),
        "dialog": pa.array(ids),
        "turn": pa.array([0] * count, pa.int32()),
        "split": pa.array(splits),
        "text": pa.array([""] * count),
        "units": pa.ListArray.from_arrays(pa.array(unit_bounds), pa.array(units)),
        "words": pa.ListArray.from_arrays(pa.array(word_bounds), words),
        "word_ends": pa.ListArray.from_arrays(pa.array(word_bounds), pa.array(ends.ravel())),
    }
    return pa.table(columns).cast(schema)


def alone(measure: Callable[..., Measured], *arguments: Any) -> Measured:
    """Measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def _read_packed(folder: Path, path: Path, units: int, max_length: int, rows: int) -> DataSpeed:
    vocabulary = SpeechTextVocabulary.from_pretrained(folder)
    source = SpeechTextSequences(UnitCorpus(path), vocabulary, max_length)
    start, tokens = time.perf_counter(), 0
    for row in islice(PackedRows(source, max_length, vocabulary.pad_id), rows):
        tokens += int(np.flatnonzero(row.labels != IGNORED)[-1]) + 1  # what follows the last scored id is padding
    seconds = time.perf_counter() - start
    return DataSpeed("packed", units, tokens, seconds, tokens / (rows * max_length), _peak_bytes())


def _read_by_way_of_text(folder: Path, path: Path, units: int, max_length: int, rows: int) -> DataSpeed:
    vocabulary = SpeechTextVocabulary.from_pretrained(folder)
    backend = vocabulary.tokenizer.backend_tokenizer
    source = SpeechTextSequences(UnitCorpus(path), vocabulary, max_length)
    start, tokens, filled, used = time.perf_counter(), 0, 0, 0
    for sequence in _for_ever(source):
        text = backend.decode(sequence.input_ids.tolist(), skip_special_tokens=False)
        length = min(max_length, len(backend.encode(text, add_special_tokens=False).ids))
        if used + length > max_length:
            filled, used = filled + 1, 0
            if filled == rows:
                break
        used += length
        tokens += length
    seconds = time.perf_counter() - start
    return DataSpeed("text", units, tokens, seconds, tokens / (rows * max_length), _peak_bytes())


def _for_ever(source: SpeechTextSequences) -> Iterator[TrainingSequence]:
    epoch = 0
    while True:
        for block in source.blocks(epoch):
            yield from source.sequences(epoch, block, 0)
        epoch += 1


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
