"""The output head, computed only for the ids that a stage may write.

A stage of units needs a quarter of a small model's head, one of text the rest: rows nobody may draw are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from usdm.lm.mistral import LanguageModel

MERGED_GAP = 64  # rows: a shorter gap costs less to compute than to jump over


@dataclass(frozen=True, eq=False)
class AllowedIds:
    """What a stage may write: A ids, in rising order."""

    ids: list[int]
    index: Tensor  # (A,) int64, the same on the model's device
    spans: tuple[slice, ...]  # rows of the head that hold them all
    within: Tensor | None  # (A,) int64: where they lie in those rows; None if they are all of them

    @classmethod
    def of(cls, allowed: Tensor, device: torch.device) -> AllowedIds:
        """allowed: (V,) bool. The few masks of a template are worked out once."""
        return _allowed_ids(allowed.cpu().numpy().tobytes(), device)


@lru_cache(maxsize=64)
def _allowed_ids(allowed: bytes, device: torch.device) -> AllowedIds:
    index = torch.nonzero(torch.frombuffer(bytearray(allowed), dtype=torch.bool))[:, 0]
    cuts = (torch.nonzero(index.diff() > MERGED_GAP)[:, 0] + 1).tolist()
    parts = index.tensor_split(cuts) if len(index) else ()
    spans = tuple(slice(int(part[0]), int(part[-1]) + 1) for part in parts)
    covered = torch.cat([torch.arange(span.start, span.stop) for span in spans]) if spans else index
    within = None if len(covered) == len(index) else torch.searchsorted(covered, index).to(device)
    return AllowedIds(index.tolist(), index.to(device), spans, within)


class OutputHead:
    """Logits from the last hidden states of a model whose head is one linear layer."""

    def __init__(self, model: LanguageModel) -> None:
        head: Any = model.get_output_embeddings()
        self.weight: Tensor = head.weight
        self.bias: Tensor | None = head.bias

    def __call__(self, states: Tensor, allowed: AllowedIds) -> Tensor:
        """(R, hidden) -> (R, A)"""
        parts = [
            F.linear(states, self.weight[span], None if self.bias is None else self.bias[span])
            for span in allowed.spans
        ]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return logits if allowed.within is None else logits.index_select(-1, allowed.within)


def pick_allowed(logits: Tensor, allowed: AllowedIds) -> Tensor:
    """(R, V) -> (R, A): what a model of any other kind computes for every id."""
    return logits.index_select(-1, allowed.index)
