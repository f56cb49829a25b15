"""Rows of a fixed length, filled with whole sequences that do not see each other.

`position_ids` restart at 0 with each sequence and there is no attention mask: from that the models of
`transformers` (5.24) derive the block-diagonal causal mask for the attention implementations `eager`, `sdpa` and
`flex_attention`, row by row. Flash attention sees the restarts in a batch of one row alone and takes a batch of
several for unpacked, so there `usdm.data.collation.flatten_rows` makes one row of them. Models that heed no
`position_ids` (BLOOM, MPT, state-space models), or make no mask of them (XGLM), let packed sequences see each other
under any implementation: `usdm.training.lm_attention.keeps_apart` finds out before anything is trained, and they get
rows of one sequence each.
"""

from __future__ import annotations

import logging
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from usdm.data.sequences import SequenceSource, TrainingSequence
from usdm.tokens import IGNORED
from usdm.types import InputError

logger = logging.getLogger(__name__)

WAITING = 1024  # sequences that wait for a row with room; more of them fill rows better


class PackedRow(NamedTuple):
    """One row of L ids; what is left at its end is padding without loss, in a sequence of its own."""

    input_ids: NDArray[np.int32]  # (L,)
    labels: NDArray[np.int32]  # (L,)
    position_ids: NDArray[np.int32]  # (L,)
    kinds: NDArray[np.int8]  # (L,)


def pack(
    sequences: Iterable[TrainingSequence], max_length: int, waiting: int = WAITING
) -> Iterator[list[TrainingSequence]]:
    """Group sequences into rows of at most `max_length` ids, in one pass with `waiting` sequences in memory.

    A row starts with the sequence that has waited longest, then takes the longest ones that still fit. Rows
    of some ten sequences are more than 99% full; sequences of a third of a row or more fill it less well.

    Raises:
        InputError: a sequence is longer than a row.
    """
    source = iter(sequences)
    held: dict[int, TrainingSequence] = {}  # by arrival
    by_length: list[tuple[int, int]] = []  # (length, arrival), sorted
    arrivals = 0

    def refill() -> None:
        nonlocal arrivals
        while len(held) < waiting and (sequence := next(source, None)) is not None:
            length = len(sequence.input_ids)
            _check_length(length, max_length)
            held[arrivals] = sequence
            insort(by_length, (length, arrivals))
            arrivals += 1

    def take(length: int, arrival: int) -> TrainingSequence:
        by_length.pop(bisect_right(by_length, (length, arrival)) - 1)
        return held.pop(arrival)

    refill()
    while held:
        oldest = next(iter(held))
        row = [take(len(held[oldest].input_ids), oldest)]
        room = max_length - len(row[0].input_ids)
        while (fitting := bisect_right(by_length, (room, arrivals))) > 0:
            length, arrival = by_length[fitting - 1]
            row.append(take(length, arrival))
            room -= length
        refill()
        yield row


def pack_in_order(sequences: Iterable[TrainingSequence], max_length: int) -> Iterator[list[TrainingSequence]]:
    """The same in the order in which sequences come: a row ends where the next one does not fit.

    On average half a sequence of each row stays empty.

    Raises:
        InputError: a sequence is longer than a row.
    """
    row: list[TrainingSequence] = []
    room = max_length
    for sequence in sequences:
        if (length := len(sequence.input_ids)) > room:
            _check_length(length, max_length)
            yield row
            row, room = [], max_length
        row.append(sequence)
        room -= length
    if row:
        yield row


def _check_length(length: int, max_length: int) -> None:
    if length > max_length:
        raise InputError(f"a sequence of {length} ids does not fit rows of {max_length}: make rows longer")


def build_row(sequences: Sequence[TrainingSequence], max_length: int, pad_id: int) -> PackedRow:
    """Join the sequences of one row and pad it to `max_length`."""
    lengths = [len(sequence.input_ids) for sequence in sequences]
    used = sum(lengths)
    row = PackedRow(
        np.full(max_length, pad_id, np.int32),
        np.full(max_length, IGNORED, np.int32),
        np.empty(max_length, np.int32),
        np.zeros(max_length, np.int8),
    )
    np.concatenate([sequence.input_ids for sequence in sequences], out=row.input_ids[:used])
    np.concatenate([sequence.labels for sequence in sequences], out=row.labels[:used])
    np.concatenate([sequence.kinds for sequence in sequences], out=row.kinds[:used])
    start = 0
    for length in [*lengths, max_length - used]:
        row.position_ids[start : start + length] = np.arange(length)
        start += length
    return row


class PackedRows(IterableDataset[PackedRow]):
    """The rows that training reads: epoch after epoch, in an order that the source's seed fixes.

    Args:
        source: blocks of sequences; each block is packed on its own.
        max_length: L.
        pad_id: fills what stays free.
        start_row: go on from this row; what comes is what an uninterrupted reading gives from there.
        epochs: stop after so many; None reads on for ever.
        alone: every sequence has a row of its own, for models that do not keep them apart.

    Raises:
        InputError: an epoch has no sequence, or it is read by several workers (one keeps the order).
    """

    def __init__(
        self,
        source: SequenceSource,
        max_length: int,
        pad_id: int,
        start_row: int = 0,
        epochs: int | None = None,
        alone: bool = False,
    ) -> None:
        self.alone = alone
        self.source, self.max_length, self.pad_id = source, max_length, pad_id
        self.start_row, self.epochs = start_row, epochs

    def __iter__(self) -> Iterator[PackedRow]:
        if (worker := get_worker_info()) is not None and worker.num_workers > 1:
            raise InputError(f"num_workers={worker.num_workers}: packed rows are read by one worker at most")
        row_number = 0
        epoch = 0
        while self.epochs is None or epoch < self.epochs:
            first = row_number
            for block in self.source.blocks(epoch):
                sequences = self.source.sequences(epoch, block, row_number)
                for gathered in self._gathered(sequences):
                    row_number += 1
                    if row_number > self.start_row:
                        yield build_row(gathered, self.max_length, self.pad_id)
            if row_number == first:
                raise InputError(
                    "the corpus leaves no sequence to train on: check its splits (import_corpus dev_share=0.1 sets "
                    "speakers or dialogs aside for dev), words and text"
                )
            rows, left_out = row_number - first, self.source.left_out
            logger.info("epoch %d: %d rows of %d ids; %d utterances left out", epoch, rows, self.max_length, left_out)
            epoch += 1

    def _gathered(self, sequences: Iterable[TrainingSequence]) -> Iterator[list[TrainingSequence]]:
        """The sequences of each row."""
        if self.alone:
            return pack(sequences, self.max_length, 1)
        return (
            pack_in_order(sequences, self.max_length) if self.source.exact_order else pack(sequences, self.max_length)
        )


class NoRows(IterableDataset[PackedRow]):
    """What a run reads that has read everything."""

    def __iter__(self) -> Iterator[PackedRow]:
        return iter(())
