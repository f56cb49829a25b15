"""Many sequences through any model of `transformers`, reads of like length padded to one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from usdm.lm.head import AllowedIds, pick_allowed
from usdm.lm.packed import visible
from usdm.lm.slots import ForwardInput, SlotCache, SlotLayer, SlotMapping, rows_of
from usdm.types import InputError

ATTENTIONS = ("sdpa", "eager")  # implementations that take any mask
LAYER_TYPES = {"full_attention", "sliding_attention"}


class PaddedForward:
    """Bound to one model and one cache of slots."""

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        """Raises InputError for a model whose attention cannot be told what to see."""
        self.model = model
        self.cache = cache
        self._shown = Cache(layers=[ShownLayer(layer) for layer in cache.layers])
        config: Any = model.config.get_text_config()
        self.window: int | None = getattr(config, "sliding_window", None)
        self.layer_types = set(getattr(config, "layer_types", None) or ())
        if (attention := config._attn_implementation) not in ATTENTIONS:
            raise InputError(f"attention={attention!r}: a batch of sequences works with {' or '.join(ATTENTIONS)}")
        if unknown := self.layer_types - LAYER_TYPES:
            raise InputError(f"layers of kind {', '.join(sorted(unknown))}: sequences of this model go one at a time")

    def __call__(self, reads: Sequence[ForwardInput]) -> Tensor:
        """-> (R, V): logits after the last id of each of R sequences."""
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for place, read in enumerate(reads):
            groups[len(read.ids).bit_length()].append(place)  # padded to less than twice the length
        # One position more than any sequence fills takes what padding writes.
        self.cache.reserve(max(read.end for read in reads) + 1)
        places = [place for group in groups.values() for place in group]
        logits = torch.cat([self._read([reads[place] for place in group]) for group in groups.values()])
        return logits[torch.tensor(places, device=logits.device).argsort()]

    def logits(self, states: Tensor, allowed: AllowedIds) -> Tensor:
        """(R, V) -> (R, A)"""
        return pick_allowed(states, allowed)

    def _read(self, reads: Sequence[ForwardInput]) -> Tensor:
        """Padded on the left, so that all end at the same place: -> (R, V)"""
        device = self.model.device
        longest = max(len(read.ids) for read in reads)
        length = max(read.end for read in reads)
        padded = [[0] * (longest - len(read.ids)) + list(read.ids) for read in reads]
        ids = torch.tensor(padded, device=device)
        offsets = torch.tensor([read.end - longest for read in reads], device=device)
        positions = offsets[:, None] + torch.arange(longest, device=device)  # (R, longest)
        is_padding = positions < torch.tensor([read.start for read in reads], device=device)[:, None]
        slots = torch.tensor([read.slot for read in reads], device=device)[:, None].expand_as(positions)
        written = positions.masked_fill(is_padding, self.cache.reserved - 1)
        positions = positions.masked_fill(is_padding, 0)
        self.cache.aim(SlotMapping(slots, written, rows_of([read.slot for read in reads], device), length))
        output = self.model(
            ids,
            attention_mask=self._mask(positions, length),
            position_ids=positions,
            cache=self._shown,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _mask(self, positions: Tensor, length: int) -> Tensor | dict[str, Tensor]:
        """(R, 1, k, length), by kind of layer where the model has two kinds."""
        window = None if self.layer_types == {"full_attention"} else self.window
        everything, near = (visible(positions, length, self.model.dtype, w)[:, None] for w in (None, window))
        if self.layer_types == LAYER_TYPES:
            return {"full_attention": everything, "sliding_attention": near}
        return near


class ShownLayer(DynamicLayer):
    """A layer of slots as `transformers` wants to see it."""

    def __init__(self, slots: SlotLayer) -> None:
        super().__init__()
        self.slots = slots
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write (n, heads, k, head_dim), and give what is attended over."""
        return self.slots.write(key_states.transpose(1, 2), value_states.transpose(1, 2))

    def get_seq_length(self) -> int:
        return 0  # sequences differ: positions are always given
