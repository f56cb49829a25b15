"""A small head on the encoder's states: whether the turn is over, given how it sounds so far.

The states from which units are made know sounds and their course: what the last word was, whether it was drawn out,
how the voice fell. Their means over the last moments, and over the moments before, go through two layers; the encoder
itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from usdm.checkpoint import fill, read_config, read_weights, save_folder
from usdm.turns.detector import SAMPLE_RATE
from usdm.types import InputError
from usdm.units import UnitExtractor

HEAD_FOLDER = "turn_head"  # in a model's bundle
HEARD = 8 * SAMPLE_RATE  # samples: the end of a longer turn says whether it is over
WINDOWS = ((0.8, 0.24), (0.32, 0.0))  # seconds before now, from and to, whose states are averaged


@dataclass(frozen=True)
class TurnHeadConfig:
    """`config.json`, key by key."""

    width: int  # of the encoder's states
    centroid_hash: str  # of the units that are made of them
    hidden: int


class TurnHead(nn.Module):
    """States (B, 2 * width) -> logits (B,) that the turn is over."""

    def __init__(self, config: TurnHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.inner = nn.Linear(len(WINDOWS) * config.width, config.hidden)
        self.outer = nn.Linear(config.hidden, 1)
        self.dropout = nn.Dropout(0.2)

    def forward(self, states: Tensor) -> Tensor:
        normed = functional.layer_norm(states, states.shape[-1:])
        logits: Tensor = self.outer(functional.relu(self.inner(self.dropout(normed))))
        return logits[:, 0]

    @classmethod
    def for_units(cls, extractor: UnitExtractor, hidden: int) -> TurnHead:
        """Untrained."""
        return cls(TurnHeadConfig(extractor.centroids.shape[1], extractor.identity, hidden))

    @classmethod
    def from_pretrained(cls, folder: str | Path, extractor: UnitExtractor) -> TurnHead:
        """Raises InputError if there is none, it is damaged, or was made for another encoder."""
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(
                f"{folder}: this model has no turn head; train one with usdm train_turn_head, or choose "
                "turn_detection=silence"
            )
        try:
            config = TurnHeadConfig(**read_config(folder))
        except TypeError as error:
            raise InputError(f"{folder / 'config.json'}: no configuration of a turn head ({error})") from error
        if config.centroid_hash != extractor.identity:
            raise InputError(
                f"{folder}: the turn head learnt with the units of centroids {config.centroid_hash}, this model has "
                f"{extractor.identity}; train one for it with usdm train_turn_head"
            )
        head = cls(config)
        fill(head, read_weights(folder), folder)
        return head.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        save_folder(folder, asdict(self.config), self)


@torch.inference_mode()
def turn_states(extractor: UnitExtractor, sounds: Sequence[Tensor]) -> Tensor:
    """(T,) float32 at 16 kHz each, the turns so far -> (B, 2 * width) float32.

    Raises InputError for a sound shorter than one unit.
    """
    features, lengths = extractor.features([sound[-HEARD:] for sound in sounds])
    rows = [_means(row[:length], extractor.unit_rate) for row, length in zip(features, lengths, strict=True)]
    return torch.stack(rows).cpu().float()


def _means(states: Tensor, rate: int) -> Tensor:
    """(U, width) -> (2 * width,); of a short turn, over what there is."""
    means = []
    for first, last in WINDOWS:
        window = states[max(0, len(states) - round(first * rate)) : len(states) - round(last * rate)]
        means.append((window if len(window) else states).mean(0))
    return torch.cat(means)
