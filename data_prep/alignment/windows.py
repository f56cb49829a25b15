"""A model's log-probabilities of sound of any length: overlapping windows, batched by length, stitched together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from data_prep.alignment.spelling import Spelling

WINDOW = 30.0  # seconds
OVERLAP = 2.0  # seconds; half of it at each seam is only context


class CtcModel(Protocol):
    """A model with a blank among its symbols."""

    sample_rate: int  # Hz
    frame_samples: int  # one frame of log-probabilities is so many samples
    blank: int
    delimiter: int | None  # symbol between words

    def spell(self, words: Sequence[str]) -> list[Spelling]:
        """Written words in the model's symbols."""
        ...

    def name(self, symbol: int) -> str:
        """Of a phone; empty if the symbols are no phones."""
        ...

    def log_probs(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """(T,) at `sample_rate` each -> (F, V) each; a row does not depend on the others."""
        ...


def emissions(model: CtcModel, waveforms: Sequence[Tensor], batch_seconds: float) -> list[Tensor]:
    """Log-probabilities (F, V) of each waveform (T,); windows of at most `batch_seconds` go through at once."""
    half = round(OVERLAP / 2 * model.sample_rate / model.frame_samples)  # frames
    length = round(WINDOW * model.sample_rate / model.frame_samples) * model.frame_samples
    step = length - 2 * half * model.frame_samples
    windows = [
        (row, start, waveform[start : start + length])
        for row, waveform in enumerate(waveforms)
        for start in range(0, max(1, len(waveform) - 2 * half * model.frame_samples), step)
    ]
    pieces: dict[tuple[int, int], Tensor] = {}
    for batch in _batches(windows, batch_seconds * model.sample_rate):
        rows = model.log_probs([samples for _, _, samples in batch])
        for (row, start, samples), log_probs in zip(batch, rows, strict=True):
            first = half if start else 0
            inner = start + len(samples) < len(waveforms[row])
            pieces[row, start] = log_probs[first : step // model.frame_samples + half if inner else None]
    return [torch.cat([pieces[row, start] for r, start, _ in windows if r == row]) for row in range(len(waveforms))]


def _batches(windows: Sequence[tuple[int, int, Tensor]], samples: float) -> list[list[tuple[int, int, Tensor]]]:
    """Of like length, the longest times their number within `samples`."""
    batches: list[list[tuple[int, int, Tensor]]] = []
    for window in sorted(windows, key=lambda window: len(window[2])):
        if not batches or len(window[2]) * (len(batches[-1]) + 1) > samples:
            batches.append([])
        batches[-1].append(window)
    return batches
