"""What a causal language model makes of one user turn: the state after the last id of a prompt, and a head on it.

A decoder has no token for a whole text: the last id alone has seen all of the turn. Rows are padded on the right under
an attention mask, so that prompts and prefixes which `peft` puts before a row are valid too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from usdm.lm.generation import check_room
from usdm.lm.model import max_positions
from usdm.tokens import DialogTemplate, TurnContent
from usdm.types import InputError

# units: as they were heard; text: as if it had been typed; transcript: units, and their words after them
Hears = Literal["units", "text", "transcript"]


@dataclass(frozen=True)
class TurnBatch:
    """Prompts padded on the right."""

    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) int64, 0 on padding


def turn_prompt(template: DialogTemplate, hears: str, units: Tensor | None, text: str | None) -> list[int]:
    """Ids of a turn alone, up to where the model would write on.

    units: (U,) int64. Raises InputError for an unknown way to hear, content that it lacks, or text that cannot be
    written.
    """
    if hears not in get_args(Hears):
        raise InputError(f"hears={hears}: there are {', '.join(get_args(Hears))}")
    if hears == "units":
        return template.prompt("transcribe", TurnContent(user_units=units), layout="transcribe")
    if hears == "text":
        return template.prompt("respond", TurnContent(user_text=text), layout="typed")
    return template.prompt("respond", TurnContent(user_units=units, user_text=text), layout="multi_step")


def turn_batch(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu") -> TurnBatch:
    """(B, L) of B prompts, none of them empty."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(list(prompt))
        mask[row, : len(prompt)] = 1
    return TurnBatch(ids.to(device), mask.to(device))


class TurnClassifier(nn.Module):
    """A backbone, and the head of an objective on its states.

    Args:
        backbone: any model of `usdm.lm.load_model`, an adapter in it or not.
        head: what the objective makes of features (B, width); see `usdm.training.classifier_objectives`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def features(self, batch: TurnBatch) -> Tensor:
        """(B, width): the normed state of the last layer at the last id of each prompt."""
        model: Any = self.backbone
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            output_hidden_states=True,
            logits_to_keep=1,
            use_cache=False,
        )
        states: Tensor = output.hidden_states[-1]
        added = states.shape[1] - batch.input_ids.shape[1]  # soft prompts that stand before each row
        last = batch.attention_mask.sum(1) - 1 + added
        return states[torch.arange(len(states), device=states.device), last].float()


def check_lengths(prompts: Sequence[Sequence[int]], model: Any) -> None:
    """Raises InputError if a prompt outgrows the model's positions."""
    limit = max_positions(model)
    if limit is not None:
        check_room(max(map(len, prompts)), limit)
