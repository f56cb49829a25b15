"""Beam search: the likeliest text instead of the likeliest next token, again and again.

Here is which hypotheses live, apart from what the model computes for them: a stream and a batch both ask it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from usdm.lm.head import AllowedIds


@dataclass(frozen=True)
class Hypothesis:
    """What a stage may have written, without its stop id."""

    ids: tuple[int, ...] = ()
    log_probability: float = 0.0  # of the ids, and of the stop id where it stopped
    stopped: bool = False


class BeamSearch:
    """The hypotheses of one stage.

    They are compared by their mean log-probability a token, the stop id included, so that short ones do not win by
    being short; the search is over when as many have ended as are followed. Both are as in `transformers` with
    `early_stopping=True`, among the allowed ids alone.
    """

    def __init__(self, num_beams: int, allowed: AllowedIds, stop_ids: Collection[int], limit: int) -> None:
        """`limit`: ids at most."""
        self.num_beams = num_beams
        self.allowed = allowed
        self.live = [Hypothesis()]  # likeliest first
        self._stop_ids = stop_ids
        self._limit = limit
        self._ended: list[Hypothesis] = []

    def advance(self, logits: Tensor) -> list[int]:
        """(H, A) logits after each live hypothesis -> which of them each of the new live ones continues.

        Nothing when the search is over.
        """
        before = torch.tensor([each.log_probability for each in self.live])
        totals = before[:, None] + logits.float().log_softmax(dim=-1).cpu()
        # So many that `num_beams` go on even if every stop id is among the likeliest for each.
        candidates = totals.flatten().topk(min(totals.numel(), (1 + len(self._stop_ids)) * self.num_beams))
        live: list[Hypothesis] = []
        parents: list[int] = []
        for rank, (total, index) in enumerate(zip(*(part.tolist() for part in candidates), strict=True)):
            parent, place = divmod(index, totals.shape[1])
            id_, ids = self.allowed.ids[place], self.live[parent].ids
            stopped = id_ in self._stop_ids
            new = Hypothesis(ids if stopped else (*ids, id_), total, stopped)
            if stopped or len(new.ids) == self._limit:
                if rank < self.num_beams:
                    self._ended.append(new)
            elif len(live) < self.num_beams:
                live.append(new)
                parents.append(parent)
        self.live = live
        return parents if len(self._ended) < self.num_beams else []

    @property
    def best(self) -> Hypothesis:
        """Of those that ended."""
        return max(self._ended, key=lambda each: each.log_probability / (len(each.ids) + each.stopped))
