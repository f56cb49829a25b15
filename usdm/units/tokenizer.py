"""What every unit tokenizer offers: speech to discrete units, whole or as it comes (USDM section 3.1).

An SSL encoder with k-means is one kind (`usdm.units.extractor`), a neural codec another (`usdm.units.codec`). A kind of
one's own is a subclass of `UnitTokenizer` in any module that Python can import.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from usdm.checkpoint import read_object
from usdm.types import InputError

SETTINGS_FILE = "units.json"


class UnitStream(Protocol):
    """One waveform, given block by block."""

    def push(self, samples: Tensor) -> Tensor:
        """(T,) float32 at the tokenizer's rate -> new final units (U,) int64, often none."""

    def finish(self) -> Tensor:
        """The rest of the units (U,) int64. Raises InputError if all that was heard is shorter than one unit."""

    def whole(self) -> Tensor | None:
        """All units (U,) int64, exactly as of the whole waveform; None where its beginning is no longer kept."""


class UnitTokenizer(nn.Module, ABC):
    """Waveforms in, units out. What is abstract here is all that a kind of one's own must have."""

    @property
    @abstractmethod
    def num_units(self) -> int:
        """K."""

    @property
    @abstractmethod
    def unit_rate(self) -> float:
        """Units a second."""

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Hz of the waveforms that go in."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Names these very units: corpora and models that are made of them are bound to it.

        Two tokenizers that may give other units have another one.
        """

    @abstractmethod
    def forward(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Units of each waveform, of any length: (T,) float32 at `sample_rate` -> (U,) int64.

        A waveform's units do not depend on the others in the batch. Raises InputError for one that is shorter than a
        unit.
        """

    @property
    def units_per_frame(self) -> int:
        """Units that belong together because they say the same stretch of time: words do not part them."""
        return 1

    def stream(self) -> UnitStream:
        """Units while a waveform still comes. One that knows no better waits for its end."""
        return WholeStream(self)

    @classmethod
    @abstractmethod
    def from_pretrained(cls, folder: str | Path) -> UnitTokenizer:
        """Read what `save_pretrained` wrote. Raises InputError for what is missing or damaged."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder with `units.json`, in which `class` is `class_name(type(self))`."""


class WholeStream:
    """A waveform that is kept to its end, and then tokenized at once."""

    def __init__(self, tokenizer: UnitTokenizer) -> None:
        self._tokenizer = tokenizer
        self._blocks: list[Tensor] = [torch.zeros(0)]

    def push(self, samples: Tensor) -> Tensor:
        self._blocks.append(samples.float().cpu())
        return torch.empty(0, dtype=torch.int64)

    def finish(self) -> Tensor:
        return self.whole()

    def whole(self) -> Tensor:
        return self._tokenizer([torch.cat(self._blocks)])[0]


def class_name(kind: type[UnitTokenizer]) -> str:
    """MODULE.CLASS, by which `load_unit_tokenizer` finds it again."""
    return f"{kind.__module__}.{kind.__qualname__}"


def read_settings(folder: str | Path) -> dict[str, Any]:
    """`units.json`. Raises InputError if it is missing or no JSON object."""
    path = Path(folder) / SETTINGS_FILE
    if not path.is_file():
        raise InputError(f"{folder} is no unit tokenizer: {SETTINGS_FILE} is missing. Give a folder that has it.")
    return read_object(path, "make or copy the folder again")
