"""Sequences that are there already, read whole: the states after their ids, and what a model would write on.

Each call has a cache of its own, so that several threads may read with one reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from usdm.lm.generation import check_room
from usdm.lm.head import AllowedIds, OutputHead
from usdm.lm.likelihood import filled_up, groups
from usdm.lm.mistral import LanguageModel, in_transformers
from usdm.lm.model import max_positions
from usdm.lm.packed import PackedForward
from usdm.lm.slots import ForwardInput, SlotCache
from usdm.lm.weights import LlamaWeights, is_llama_like


class SequenceReader:
    """Bound to one model, whose head is one linear layer."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.head = OutputHead(model)
        self._weights = LlamaWeights(model) if is_llama_like(model) else None

    @torch.inference_mode()
    def states(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """(L, width) normed states of the last layer, after each of the L ids of each sequence.

        Raises InputError for a sequence that outgrows the model's positions.
        """
        limit = max_positions(self.model)
        if limit is not None:
            check_room(max(map(len, sequences)), limit)
        return [state for group in groups(sequences) for state in self._read(group)]

    @torch.inference_mode()
    def log_probabilities(self, states: Tensor, ids: Sequence[int], allowed: Tensor) -> Tensor:
        """(L,) float32 of L ids, each after its state; allowed: (V,) bool, as in `usdm.lm.log_probabilities`."""
        choices = AllowedIds.of(allowed, self.model.device)
        places = {id_: place for place, id_ in enumerate(choices.ids)}
        wanted = torch.tensor([places[id_] for id_ in ids], device=states.device)
        return self.head(states, choices).float().log_softmax(-1).gather(1, wanted[:, None])[:, 0]

    def _read(self, group: Sequence[Sequence[int]]) -> list[Tensor]:
        if self._weights is not None:
            cache = SlotCache(self.model.config.get_text_config().num_hidden_layers, len(group))
            forward = PackedForward(self.model, cache, self._weights)
            return forward.states([ForwardInput(slot, 0, list(ids)) for slot, ids in enumerate(group)])
        ids = filled_up(group, self.model.device)
        model: Any = in_transformers(self.model)
        states = model(ids, use_cache=False, output_hidden_states=True).hidden_states[-1]
        return [row[: len(own)] for row, own in zip(states, group, strict=True)]
