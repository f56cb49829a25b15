"""What the units of an SSL encoder with k-means depend on, beside its weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UnitSettings:
    """Where in the encoder the units come from, and how a waveform is given to it."""

    layer: int  # 0-based; its output before any final norm
    num_units: int  # K
    unit_rate: int  # Hz
    sample_rate: int = 16_000  # Hz
    padding: int = 0  # samples of silence on each side, so that frames are centred
    normalize: bool = True  # the whole waveform to mean 0 and variance 1, as the encoder was trained
    window: float = 30.0  # seconds; longer waveforms are encoded in overlapping windows of this size ...
    context: float = 5.0  # ... in which each layer attends to so many seconds on both sides
