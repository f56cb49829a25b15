"""A small head on the language model's own hearing: whether the turn is over, given its units so far.

The model's state after the last unit knows which words were said ("i would like to ..."), and how. Two layers on it, a
few thousand parameters, say how likely it is that the turn is over; the model itself stays as it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from usdm.checkpoint import fill, read_config, read_weights, save_folder
from usdm.lm import in_transformers
from usdm.tokens import TurnContent
from usdm.turns.detector import SAMPLE_RATE, Hearing
from usdm.types import InputError

if TYPE_CHECKING:
    from usdm.lm import LanguageModel

HEAD_FOLDER = "turn_head"  # in a model's bundle
HEARD = 8 * SAMPLE_RATE  # samples: the end of a longer turn says whether it is over


@dataclass(frozen=True)
class TurnHeadConfig:
    """`config.json`, key by key."""

    width: int  # of the language model's states
    centroid_hash: str  # of the units that it learnt with
    language_model: list[float]  # a sample of the weights that it learnt with
    hidden: int = 16


class TurnHead(nn.Module):
    """States (B, width) -> logits (B,) that the turn is over."""

    def __init__(self, config: TurnHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.inner = nn.Linear(config.width, config.hidden)
        self.outer = nn.Linear(config.hidden, 1)
        self.dropout = nn.Dropout(0.2)

    def forward(self, states: Tensor) -> Tensor:
        normed = functional.layer_norm(states.float(), states.shape[-1:])
        return self.outer(functional.relu(self.inner(self.dropout(normed))))[:, 0]

    @classmethod
    def for_model(cls, parts: Hearing, hidden: int) -> TurnHead:
        """Untrained."""
        width = parts.llm.config.get_text_config().hidden_size
        return cls(TurnHeadConfig(width, parts.units.centroid_hash, weight_sample(parts.llm), hidden))

    @classmethod
    def from_pretrained(cls, folder: str | Path, parts: Hearing) -> TurnHead:
        """Raises InputError if there is none, it is damaged, or was made for another model."""
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(
                f"{folder}: this model has no turn head; train one with usdm train_turn_head, or choose "
                "turn_detection=silence"
            )
        stored = read_config(folder)
        try:
            config = TurnHeadConfig(**stored)
        except TypeError as error:
            raise InputError(f"{folder / 'config.json'}: no configuration of a turn head ({error})") from error
        head = cls(config)
        fill(head, read_weights(folder), folder)
        head.check(parts, folder)
        return head.eval()

    def check(self, parts: Hearing, folder: Path) -> None:
        """Raises InputError if it learnt with other units or another language model."""
        if self.config.centroid_hash != parts.units.centroid_hash:
            raise InputError(
                f"{folder}: the turn head learnt with the units of centroids {self.config.centroid_hash}, this model "
                f"has {parts.units.centroid_hash}; train one for it with usdm train_turn_head"
            )
        own, theirs = torch.tensor(self.config.language_model), torch.tensor(weight_sample(parts.llm))
        if own.shape != theirs.shape or not torch.allclose(own, theirs, rtol=0.02, atol=1e-3):
            raise InputError(
                f"{folder}: the turn head learnt with another language model; train one for this with "
                "usdm train_turn_head, or choose turn_detection=silence"
            )

    def save_pretrained(self, folder: str | Path) -> None:
        save_folder(folder, asdict(self.config), self)


def weight_sample(model: LanguageModel) -> list[float]:
    """A few weights by which a language model is known again in any precision."""
    norm = next(weight for name, weight in model.base_model.named_parameters() if name.endswith("norm.weight"))
    return [round(float(value), 4) for value in norm.flatten()[:16]]


@torch.inference_mode()
def turn_states(parts: Hearing, sounds: list[Tensor]) -> Tensor:
    """(T,) float32 at 16 kHz each, the turns so far -> (B, width) float32, the model's state after their last unit."""
    units = parts.units([sound[-HEARD:] for sound in sounds])
    return torch.stack([_state(parts, each) for each in units])


def _state(parts: Hearing, units: Tensor) -> Tensor:
    """The units of one turn (U,) int64 -> (width,)"""
    template = parts.template
    ids = template.prompt(template.layout().stages[0], TurnContent(user_units=units))
    while not template.vocabulary.unit_mask[ids[-1]]:
        ids.pop()
    model = in_transformers(parts.llm).base_model
    return model(input_ids=torch.tensor([ids], device=parts.llm.device), use_cache=False).last_hidden_state[0, -1].cpu()
