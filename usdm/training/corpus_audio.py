"""The sound of a speech corpus, resampled once and kept in memory for random crops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from usdm.data.utterance_index import UtteranceIndex
from usdm.types import InputError

PCM16_FULL_SCALE = 32767
KEPT_BYTES = 4 << 30


class CorpusAudio:
    """Waveforms of some utterances by their index.

    Each is read and resampled to `sample_rate` (Hz) when first asked for and kept in 16 bits: 159 MB an
    hour at 22,050 Hz, up to `KEPT_BYTES`; what is beyond is read each time.
    """

    def __init__(self, utterances: UtteranceIndex, sample_rate: int) -> None:
        self.utterances = utterances
        self.sample_rate = sample_rate
        self._pcm: dict[int, Tensor] = {}
        self._kept = 0  # bytes

    def __len__(self) -> int:
        return len(self.utterances)

    def samples(self, index: int) -> Tensor:
        """(T,) float32 at `sample_rate`. Raises InputError if the file cannot be read."""
        if (pcm := self._pcm.get(index)) is None:
            samples = self.utterances[index].read(self.sample_rate).samples
            pcm = (samples.clamp(-1, 1) * PCM16_FULL_SCALE).round().to(torch.int16)
            if self._kept < KEPT_BYTES:
                self._pcm[index] = pcm
                self._kept += pcm.nbytes
        return pcm.float() / PCM16_FULL_SCALE

    def crops(self, count: int, length: int, random: np.random.Generator) -> Tensor:
        """(count, length) random crops, silence after utterances that are too short."""
        crops = torch.zeros(count, length)
        for row, index in enumerate(random.choice(len(self), count, p=self.shares)):
            samples = self.samples(int(index))
            start = int(random.integers(max(len(samples) - length, 0) + 1))
            crop = samples[start : start + length]
            crops[row, : len(crop)] = crop
        return crops

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """How often each utterance is drawn, so that every second is drawn equally often."""
        durations = self.utterances.durations
        return durations / durations.sum()


def utterances_of(corpora: Sequence[str | Path], split: str, roles: Sequence[str] | None) -> UtteranceIndex:
    """Raises InputError if there are none of these roles."""
    utterances = UtteranceIndex.read(corpora, split, lambda utterance: roles is None or utterance.role in roles)
    if not len(utterances):
        raise InputError(f"{', '.join(map(str, corpora))}: no utterance in split {split!r} has a role of {roles}")
    return utterances
