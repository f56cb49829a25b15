"""Resampling while samples still come."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from usdm.audio.io import resample, resampling_ratio

FILTER_ZEROS = 7  # zero crossings of the resampling filter on each side, at the lower of both rates, rounded up


class StreamingResampler:
    """Blocks of one recording, resampled as `resample` does the whole. One object for one recording."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self.from_hz = from_hz
        self.to_hz = to_hz
        self._ratio = resampling_ratio(from_hz, to_hz)
        # Inputs and outputs meet at multiples of the ratio's terms; the filter looks this many such steps around.
        reach = 0 if from_hz == to_hz else FILTER_ZEROS / min(1.0, float(self._ratio))  # input samples
        self._context = math.ceil(reach / self._step) * self._step
        self._before = 0  # samples of `_kept` that were resampled already
        self._kept = torch.zeros(0)

    @property
    def _step(self) -> int:
        return self._ratio.denominator

    def push(self, samples: Tensor) -> Tensor:
        """(t,) float32 at `from_hz` -> (s,) at `to_hz`: what no later sample can change."""
        self._kept = torch.cat([self._kept, samples])
        settled = (len(self._kept) - self._context) // self._step * self._step
        if settled <= self._before:
            return self._kept[:0]
        return self._resampled(settled)

    def finish(self) -> Tensor:
        """(s,) at `to_hz`: the rest."""
        return self._resampled(len(self._kept))

    def _resampled(self, end: int) -> Tensor:
        """The samples from those done to `end`, with the context that is there on both sides."""
        sound = resample(self._kept, self.from_hz, self.to_hz)
        start, stop = self._before * self._ratio, math.ceil(end * self._ratio)
        kept = max(0, end - self._context) // self._step * self._step
        self._kept, self._before = self._kept[kept:], end - kept
        return sound[int(start) : stop]
