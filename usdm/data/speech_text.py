"""Pretraining sequences: interleaved text and units from a unit corpus (USDM, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from usdm.data.curriculum import Curriculum, Unlabelled, levels_by_length
from usdm.data.order import Order, Shuffled
from usdm.data.sequences import KIND_INDEX, TrainingSequence, cut
from usdm.data.unit_corpus import RowGroup, UnitCorpus
from usdm.interleave import (
    Interleaving,
    PatternInterleaving,
    SequenceMarks,
    Span,
    TokenizedUtterance,
    keyed_generator,
    segment_boundaries,
    sequence_ids,
)
from usdm.tokens import IGNORED, SpeechTextVocabulary
from usdm.types import InputError

logger = logging.getLogger(__name__)

MIN_WORDS = 3  # utterances with fewer words are left out
SEGMENT_UNITS = 500  # published: about 10 s at 50 Hz
Item = TypeVar("Item")
_ROWS_PER_BLOCK = 1000  # about; a block is packed on its own, so that it should have many rows


@dataclass(frozen=True)
class _Block:
    """Groups of rows that are read together."""

    groups: list[RowGroup]
    rows: list[list[tuple[int, int]]] | None = None  # of each group: (row of the split, place in the block); None: all


class SpeechTextSequences:
    """Interleaved sequences of a corpus, each rebuilt from (seed, epoch, utterance id) alone.

    A sequence longer than a row is cut into pieces that follow each other. Utterances without word times or
    with fewer than 3 words are left out; `left_out` counts them since the epoch's start.

    Args:
        corpus: what is read.
        vocabulary: ids of text and units.
        max_length: longest sequence.
        split: "train", "dev" or "test".
        seed: fixes order, boundaries and modalities.
        interleaving: the published scheme, an ablation, or one of your own.
        order: of the corpus' rows, in each epoch. A curriculum moves utterances over the whole corpus: of each it
            holds id and dialog in memory, and it reads groups of rows as often as blocks need them.
        segment_units: about how many units a segment has; or a curriculum of (from this row on, segment
            units), the first from row 0, looked up at the start of each block of about 1,000 rows.

    Raises:
        InputError: corpus and vocabulary differ in the number of units, the curriculum of segments is out of order, or
            the order's labels lack an utterance.
    """

    def __init__(
        self,
        corpus: UnitCorpus,
        vocabulary: SpeechTextVocabulary,
        max_length: int,
        *,
        split: str = "train",
        seed: int = 0,
        interleaving: Interleaving = PatternInterleaving(),  # noqa: B008 (frozen)
        order: Order | Curriculum = Shuffled(),  # noqa: B008 (frozen)
        segment_units: int | Sequence[tuple[int, int]] = SEGMENT_UNITS,
    ) -> None:
        corpus.check_num_units(vocabulary.num_units)
        self.corpus, self.max_length, self.split = corpus, max_length, split
        self.seed, self.interleaving, self.order = seed, interleaving, order
        self.exact_order = order.exact
        self.curriculum = _curriculum(segment_units)
        self.left_out = 0
        self._unit_offset = vocabulary.layout.unit_offset
        self._marks = _marks(vocabulary)
        self._pieces = WordPieces(vocabulary)
        if isinstance(order, Curriculum):
            self.blocks(0)  # complains about labels before anything is trained

    def blocks(self, epoch: int) -> list[_Block]:
        """Utterances in their order, gathered to about 1,000 packed rows each."""
        self.left_out = 0
        if isinstance(self.order, Curriculum):
            return self._curriculum_blocks(self.order, epoch)
        groups = self.order.groups(self.corpus, keyed_generator(self.seed, epoch, "order of groups"))
        return [_Block(part) for part in self._gathered(groups, [group.units for group in groups])]

    def sequences(self, epoch: int, block: _Block, rows_before: int) -> Iterator[TrainingSequence]:
        segment_units = [units for first_row, units in self.curriculum if first_row <= rows_before][-1]
        table, order = self._read(block, epoch)
        utterances = _Utterances(table, self._pieces, self._unit_offset)
        for index in order:
            if utterances.word_count[index] < MIN_WORDS:
                self.left_out += 1
                continue
            yield from cut(self._sequence(utterances, index, epoch, segment_units), self.max_length)

    def _read(self, block: _Block, epoch: int) -> tuple[pa.Table, list[int]]:
        """The block's rows, and in which order they come."""
        columns = ["id", "units", "words", "word_ends"]
        if block.rows is None:
            assert not isinstance(self.order, Curriculum)
            table = self.corpus.read(block.groups, list(dict.fromkeys([*columns, *self.order.columns])), self.split)
            name = f"order of {block.groups[0].file}/{block.groups[0].index}" if block.groups else ""
            return table, self.order.rows(table, keyed_generator(self.seed, epoch, name))
        tables, order, rows_before = [], np.empty(sum(map(len, block.rows)), int), 0
        for group, places in zip(block.groups, block.rows, strict=True):
            tables.append(self.corpus.read([group], columns, self.split).take([row for row, _ in places]))
            order[[place for _, place in places]] = np.arange(rows_before, rows_before + len(places))
            rows_before += len(places)
        return pa.concat_tables(tables).combine_chunks(), order.tolist()

    def _curriculum_blocks(self, order: Curriculum, epoch: int) -> list[_Block]:
        examples, lengths, where = [], [], []
        for group in self.corpus.groups:
            table = self.corpus.read([group], ["id", "dialog", "units"], self.split)
            examples += list(zip(table["id"].to_pylist(), table["dialog"].to_pylist(), strict=True))
            lengths += pc.list_value_length(table["units"]).to_pylist()
            where += [(group, row) for row in range(len(table))]
        known = [Unlabelled(*each, level) for each, level in zip(examples, levels_by_length(lengths), strict=True)]
        arranged = order.examples(known, keyed_generator(self.seed, epoch, "order of utterances"))
        blocks = []
        for part in self._gathered(arranged, [lengths[index] for index in arranged]):
            rows: dict[RowGroup, list[tuple[int, int]]] = {}
            for place, index in enumerate(part):
                group, row = where[index]
                rows.setdefault(group, []).append((row, place))
            blocks.append(_Block(list(rows), list(rows.values())))
        return blocks

    def _gathered(self, items: Sequence[Item], units: Sequence[int]) -> list[list[Item]]:
        """Consecutive items, as many as fill about 1,000 rows."""
        parts: list[list[Item]] = [[]]
        gathered = 0
        for item, count in zip(items, units, strict=True):
            if gathered >= _ROWS_PER_BLOCK * self.max_length:
                parts.append([])
                gathered = 0
            parts[-1].append(item)
            gathered += count
        return parts

    def _sequence(self, utterances: _Utterances, index: int, epoch: int, segment_units: int) -> TrainingSequence:
        generator = keyed_generator(self.seed, epoch, utterances.id[index])
        utterance = utterances[index]
        ends = np.asarray(utterance.unit_ends[1:])
        spans = self.interleaving.plan(segment_boundaries(ends, segment_units, generator), generator)
        pieces, origins = sequence_ids(spans, utterance, self._marks)
        ids = np.concatenate(pieces)
        labels = ids.copy()
        labels[0] = IGNORED
        lengths = [len(piece) for piece in pieces]
        kinds = np.repeat(np.array([_kind(span) for span in origins], np.int8), lengths)
        return TrainingSequence(ids, labels, kinds)


class WordPieces:
    """Text ids of words as they stand inside a text, each tokenized once.

    Raises InputError for a word that the tokenizer cannot write.
    """

    def __init__(self, vocabulary: SpeechTextVocabulary) -> None:
        self._tokenizer = vocabulary.tokenizer
        self._anchor = vocabulary.encode_text("a")  # its id before a word shows where the word's own begin
        self._known: dict[str, NDArray[np.int32]] = {}

    def __call__(self, words: Sequence[str]) -> list[NDArray[np.int32]]:
        new = [word for word in words if word not in self._known]
        texts = [f"a {word}" for word in new]
        encodings = self._tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        for word, encoding in zip(new, encodings, strict=True):
            ids = encoding.ids
            if ids[: len(self._anchor)] != self._anchor:
                raise InputError(f"{word!r}: the tokenizer merges it with the word before; use another one")
            if self._tokenizer.unk_token_id in ids:
                raise InputError(f"{word!r}: the tokenizer has no ids for it; use one with byte fallback")
            self._known[word] = np.array(ids[len(self._anchor) :], np.int32)
        return [self._known[word] for word in words]


class _Utterances:
    """A block's utterances as flat arrays, so that a span is a slice."""

    def __init__(self, table: pa.Table, pieces: WordPieces, unit_offset: int) -> None:
        self.id: list[str] = table["id"].to_pylist()
        units, self._unit_bounds = _flat(table["units"])
        self._units = units.to_numpy(zero_copy_only=False).astype(np.int32) + unit_offset
        words, self._word_bounds = _flat(table["words"])
        self._word_ends = _flat(table["word_ends"])[0].to_numpy(zero_copy_only=False)
        encoded = words.dictionary_encode()
        names: list[str] = encoded.dictionary.to_pylist()
        which = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        ids = pieces(names)
        lengths = np.array([len(word) for word in ids], np.int64)
        # Ids of all words in order: those of each name, taken from one flat array at the right places.
        self._text_ends = np.concatenate([[0], np.cumsum(lengths[which])])
        starts = (np.cumsum(lengths) - lengths)[which]
        shift = np.repeat(starts - self._text_ends[:-1], lengths[which])
        flat = np.concatenate(ids) if ids else np.empty(0, np.int32)
        self._text = flat[np.arange(self._text_ends[-1]) + shift]
        # A name can be two short words that share their units.
        spoken = np.array([name.count(" ") + 1 for name in names], np.int64)[which]
        totals = np.concatenate([[0], np.cumsum(spoken)])
        self.word_count: list[int] = np.diff(totals[self._word_bounds]).tolist()

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, index: int) -> TokenizedUtterance:
        first, last = self._word_bounds[index], self._word_bounds[index + 1]
        text_ends = self._text_ends[first : last + 1]
        return TokenizedUtterance(
            text=self._text[text_ends[0] : text_ends[-1]],
            text_ends=(text_ends - text_ends[0]).tolist(),
            units=self._units[self._unit_bounds[index] : self._unit_bounds[index + 1]],
            unit_ends=[0, *self._word_ends[first:last].tolist()],
        )


def _flat(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """All items of a column of lists, and where each list begins and ends: R + 1 bounds for R rows."""
    lists = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    return lists.flatten(), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _marks(vocabulary: SpeechTextVocabulary) -> SequenceMarks:
    ids = (vocabulary.start_ids, vocabulary.end_ids, [vocabulary.continue_id], [vocabulary.correspond_id])
    return SequenceMarks(*(np.array(mark, np.int32) for mark in ids))


def _kind(span: Span | None) -> int:
    if span is None:
        return KIND_INDEX["tags"]
    if span.link == "continue":
        return KIND_INDEX[f"continue_{span.modality}"]
    if span.link == "correspond":
        return KIND_INDEX["units_to_text" if span.modality == "text" else "text_to_units"]
    return KIND_INDEX[span.modality]


def _curriculum(segment_units: int | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    steps = [(0, segment_units)] if isinstance(segment_units, int) else [(row, units) for row, units in segment_units]
    rows = [row for row, _ in steps]
    if not rows or rows[0] != 0 or rows != sorted(set(rows)) or min(units for _, units in steps) < 1:
        raise InputError(
            f"segment_units={segment_units}: give a positive number, or pairs (from row, segment units) that start "
            "at row 0 and rise"
        )
    return steps
