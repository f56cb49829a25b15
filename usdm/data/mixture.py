"""Several corpora in set shares, row by row."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import IterableDataset

from usdm.data.fill_in_middle import FillInMiddle
from usdm.data.packing import PackedRow, PackedRows
from usdm.data.sequences import SequenceSource
from usdm.types import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MixtureMember:
    """A corpus beside the main one: either unit corpora or text.

    Raises:
        InputError: not one of both, a middle to fill in of units, or a weight or a limit that is not positive.
    """

    units: Sequence[str | Path] | None = None  # unit corpora
    text: Sequence[str | Path] | None = None  # .txt or .jsonl files, or folders of them
    weight: float = 1.0  # rows for each row of the main corpus
    repeats: int | None = None  # epochs at most, then it leaves the mixture; None: no limit
    fill_in_middle: FillInMiddle | None = None  # of text: how documents are rearranged

    def __post_init__(self) -> None:
        if (self.units is None) == (self.text is None):
            raise InputError("a member of a mixture has either units=[...] or text=[...]")
        if self.text is None and self.fill_in_middle is not None:
            raise InputError("fill_in_middle is for text: give it to a member with text=[...]")
        if self.weight <= 0 or (self.repeats is not None and self.repeats < 1):
            raise InputError(f"weight={self.weight}, repeats={self.repeats}: give a weight above 0, 1 epoch or more")


@dataclass(frozen=True)
class WeightedSource:
    source: SequenceSource
    weight: float
    repeats: int | None = None


class MixedRows(IterableDataset[PackedRow]):
    """Packed rows of several sources, so that at any point each has had its share of rows to within one.

    Every row is of one source. A source that was read `repeats` times leaves the others to share.

    Args:
        sources: at least one without a limit.
        max_length, pad_id, start_row, alone: as for `PackedRows`.

    Raises:
        InputError: all sources have limits.
    """

    def __init__(
        self,
        sources: Sequence[WeightedSource],
        max_length: int,
        pad_id: int,
        start_row: int = 0,
        alone: bool = False,
    ) -> None:
        if all(source.repeats is not None for source in sources):
            raise InputError("every corpus of the mixture has a limit of repeats: leave one without")
        self.sources, self.max_length, self.pad_id, self.start_row = sources, max_length, pad_id, start_row
        self.alone = alone

    def __iter__(self) -> Iterator[PackedRow]:
        streams = [
            iter(PackedRows(source.source, self.max_length, self.pad_id, epochs=source.repeats, alone=self.alone))
            for source in self.sources
        ]
        weights = [source.weight for source in self.sources]
        # Each row costs 1 / weight of its source's time, and the source whose clock is behind comes next.
        clocks = [0.5 / weight for weight in weights]
        row_number = 0
        while True:
            chosen = min(range(len(clocks)), key=clocks.__getitem__)
            row = next(streams[chosen], None)
            if row is None:
                logger.info("corpus %d of the mixture has been read %s times", chosen, self.sources[chosen].repeats)
                clocks[chosen] = float("inf")
                continue
            clocks[chosen] += 1 / weights[chosen]
            row_number += 1
            if row_number > self.start_row:
                yield row
