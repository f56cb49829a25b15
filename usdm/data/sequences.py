"""What a source of training sequences gives, whatever they are made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from usdm.tokens import IGNORED

# What a scored token is, for validation by kind. Pretraining: units or text that open a sequence or carry on
# in the same modality; across modalities, the same content (a_to_b) or its continuation (continue_b).
# Fine-tuning: the user's transcript, the agent's text and units, which of two replies is the better one, each with
# the id that ends it.
KINDS = (
    "tags",  # also what is not scored
    "units",
    "text",
    "units_to_text",
    "text_to_units",
    "continue_units",
    "continue_text",
    "transcript",
    "agent_text",
    "agent_units",
    "verdict",
)
KIND_INDEX = {kind: index for index, kind in enumerate(KINDS)}


class TrainingSequence(NamedTuple):
    """One sequence of L ids; it attends to nothing outside itself."""

    input_ids: NDArray[np.int32]  # (L,)
    labels: NDArray[np.int32]  # (L,) the ids, not shifted, or IGNORED; the first has nothing before it
    kinds: NDArray[np.int8]  # (L,) indices of KINDS


class SequenceSource(Protocol):
    """Training sequences in an order that (seed, epoch) fixes, made a block at a time."""

    left_out: int  # utterances that could not be used, since the epoch's start
    exact_order: bool  # rows are filled in the order of the sequences; else within a window, which fills them better

    def blocks(self, epoch: int) -> Sequence[Any]:
        """What an epoch consists of, in order; a block is small enough to hold in memory."""

    def sequences(self, epoch: int, block: Any, rows_before: int) -> Iterable[TrainingSequence]:
        """A block's sequences: a pure function of its arguments.

        `rows_before`, the number of rows read since the start of training, is what a curriculum goes by.
        """


def cut(sequence: TrainingSequence, length: int) -> list[TrainingSequence]:
    """Consecutive pieces of at most `length` ids; a piece's first id is not scored."""
    total = len(sequence.input_ids)
    if total <= length:
        return [sequence]
    starts = range(0, total, length)
    ids, labels, kinds = sequence
    slices = [slice(start, start + length) for start in starts]
    pieces = [TrainingSequence(ids[part].copy(), labels[part].copy(), kinds[part].copy()) for part in slices]
    for piece in pieces:
        piece.labels[0] = IGNORED
    return pieces
