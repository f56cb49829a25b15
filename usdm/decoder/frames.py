"""Which unit each mel frame belongs to: units and frames have rates without a common measure."""

from __future__ import annotations

import torch
from torch import Tensor

from usdm.audio import MelSettings


def mel_frame_count(units: int, unit_rate: float, mel: MelSettings) -> int:
    """Frames that so many units at `unit_rate` Hz cover."""
    return int(units * mel.sample_rate // unit_rate) // mel.hop_length


def units_per_frame(units: Tensor, unit_rate: float, mel: MelSettings, start: int = 0) -> Tensor:
    """(U,) units at `unit_rate` Hz -> (M - start,) the unit of every mel frame from `start` on.

    Every sample takes the unit that is spoken there; what does not fill a last frame is cut; a frame takes
    the unit of most of its samples (of two that share it evenly, the lower number). U units cover
    M = U * mel.sample_rate // unit_rate // mel.hop_length frames, and further units do not change them.
    """
    frames = mel_frame_count(len(units), unit_rate, mel)
    samples = torch.arange(start * mel.hop_length, frames * mel.hop_length)
    unit_of_sample = (samples * unit_rate // mel.sample_rate).long()
    return units.cpu()[unit_of_sample].view(frames - start, mel.hop_length).mode(dim=1).values.to(units.device)
