"""Several codebooks a frame as one sequence of units, and back. Pure arithmetic.

A neural codec gives Q codes for each frame, the first the coarsest. A language model reads one sequence, so each
codebook has a range of units of its own: code c of codebook q is unit q V + c, with V codes in each codebook.
Sources: the flattened and the delay pattern of MusicGen (arXiv 2306.05284, section 2.2), the first codebook alone of
textless models on SpeechTokenizer (arXiv 2308.16692).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from usdm.types import InputError

Layout = Literal["flattened", "delayed", "first"]


@dataclass(frozen=True)
class CodebookLayout:
    """How the codes of frames become units.

    flattened: frame by frame, the codebooks in order. delayed: codebook q is q frames late, so that what is written at
    a step depends on coarser codes of the same frame only; a unit of its own stands where a codebook has no frame yet,
    or none any more. first: the coarsest codebook alone; the others are lost.

    Raises InputError for fewer than 1 codebook or code, or an unknown layout.
    """

    layout: Layout
    codebooks: int  # Q
    codes: int  # V, of each codebook

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise InputError(f"layout={self.layout!r}: there are {', '.join(get_args(Layout))}")
        if self.codebooks < 1 or self.codes < 1:
            raise InputError(f"codebooks={self.codebooks}, codes={self.codes}: at least 1 of each is needed")

    @property
    def units_per_frame(self) -> int:
        return 1 if self.layout == "first" else self.codebooks

    @property
    def num_units(self) -> int:
        """K."""
        return self.units_per_frame * self.codes + (1 if self.layout == "delayed" else 0)

    @property
    def filler(self) -> int:
        """The unit of a delayed layout where a codebook has no frame."""
        return self.codebooks * self.codes

    def units(self, codes: Tensor) -> Tensor:
        """(Q, T) int64 codes -> (U,) int64 units."""
        if self.layout == "first":
            return codes[0]
        offset = codes + self.codes * torch.arange(self.codebooks, device=codes.device)[:, None]
        if self.layout == "delayed":
            offset = self._delayed(offset)
        return offset.T.reshape(-1)

    def frames(self, units: Tensor) -> Tensor:
        """(U,) int64 units -> (Q, T) int64 codes, or (1, T) of the first codebook alone.

        What a model writes may be out of order: a unit of another codebook than its place wants stands for that
        codebook's code of the frame before (or 0), and an incomplete frame at the end is cut.
        """
        if self.layout == "first":
            return units[None]
        steps = units[: len(units) - len(units) % self.codebooks].reshape(-1, self.codebooks).T
        if self.layout == "delayed":
            frames = max(0, steps.shape[1] - self.codebooks + 1)
            steps = torch.stack([row[late : late + frames] for late, row in enumerate(steps)])
        own = steps - self.codes * torch.arange(self.codebooks, device=units.device)[:, None]
        return _carried_on(own, (own >= 0) & (own < self.codes))

    def _delayed(self, codes: Tensor) -> Tensor:
        """(Q, T) -> (Q, T + Q - 1)."""
        late = codes.new_full((self.codebooks, codes.shape[1] + self.codebooks - 1), self.filler)
        for codebook, row in enumerate(codes):
            late[codebook, codebook : codebook + len(row)] = row
        return late


def _carried_on(codes: Tensor, good: Tensor) -> Tensor:
    """(Q, T) with the last good code of its row in place of each bad one, 0 where there is none."""
    places = torch.where(good, torch.arange(codes.shape[1], device=codes.device), -1)
    last = places.cummax(dim=1).values if codes.shape[1] else places
    return torch.where(last >= 0, codes.gather(1, last.clamp(min=0)), 0)
