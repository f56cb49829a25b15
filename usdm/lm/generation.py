"""Constrained generation over one sequence and one key-value cache.

The stages of a chain continue each other, so whatever one stage has read or written is never read again: the
next one extends the same stream. Each stage has its own allowed ids, stop id and sampling.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from usdm.lm.cache import GrowingCache
from usdm.lm.model import max_positions
from usdm.lm.sampling import Sampler
from usdm.lm.single_token import SingleTokenForward, is_supported
from usdm.types import InputError, Sampling


@dataclass(frozen=True)
class Generated:
    """What a stage wrote, without its stop id."""

    ids: list[int]
    stopped: bool  # False: the limit came before a stop id


class TokenStream:
    """A sequence that grows: `ids`, and a cache that holds what the model has read of them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.ids: list[int] = []
        self.max_length = max_positions(model) or sys.maxsize
        self._cache = GrowingCache(model.config.get_text_config().num_hidden_layers)
        self._single = SingleTokenForward(model, self._cache) if is_supported(model) else None
        self._num_read = 0  # ids in the cache
        self._logits: Tensor | None = None  # (V,) of the id after the last one read

    @torch.inference_mode()
    def extend(self, ids: Sequence[int]) -> None:
        """Append ids and read them. Raises InputError if the sequence outgrows the model's positions."""
        if ids:
            self._check_room(len(ids))
            self.ids.extend(ids)
            self._read()

    def rollback(self, length: int) -> None:
        """Keep the first `length` ids only. Raises InputError if the sequence is shorter."""
        if not 0 <= length <= len(self.ids):
            raise InputError(f"length={length}: the sequence has {len(self.ids)} ids")
        if length == len(self.ids):
            return
        del self.ids[length:]
        # The last id that stays is read again: what the model made of it is not in the cache.
        self._num_read = max(0, min(self._num_read, length - 1))
        self._cache.cut_back(self._num_read)

    def write(self, allowed: Tensor, stop_ids: Collection[int], sampling: Sampling) -> Generator[int, None, Generated]:
        """Write on until a stop id, the sampling's token limit, or the model's last position.

        Yields each id as soon as it is drawn, and returns them all. allowed: (V,) bool, the stop ids included.
        What is written becomes part of the sequence; the stop id does not (extend with it). Raises InputError if
        there is nothing to continue, or no room for one id.
        """
        if not self.ids:
            raise InputError("there is nothing to continue: extend the stream with a prompt first")
        self._check_room(1)
        allowed_ids = torch.nonzero(allowed)[:, 0].to(self.model.device)
        id_of = allowed_ids.tolist()
        sampler = Sampler(sampling)
        written: list[int] = []
        for _ in range(min(sampling.max_new_tokens, self.max_length - len(self.ids))):
            id_ = id_of[self._draw(sampler, allowed_ids)]
            if id_ in stop_ids:
                return Generated(written, stopped=True)
            written.append(id_)
            self.ids.append(id_)
            yield id_
        return Generated(written, stopped=False)

    def generate(self, allowed: Tensor, stop_ids: Collection[int], sampling: Sampling) -> Generated:
        """`write` to its end."""
        writing = self.write(allowed, stop_ids, sampling)
        while True:
            try:
                next(writing)
            except StopIteration as end:
                return end.value

    @torch.inference_mode()
    def _draw(self, sampler: Sampler, allowed_ids: Tensor) -> int:
        return sampler.draw(self._read()[allowed_ids])

    def _read(self) -> Tensor:
        """Let the model read what it has not yet: -> (V,) logits of the next id."""
        new = self.ids[self._num_read :]
        if len(new) == 1 and self._single is not None and self._num_read:
            self._logits = self._single(new[0], self._num_read)
        elif new:
            input_ids = torch.tensor([new], device=self.model.device)
            output = self.model(input_ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._logits = output.logits[0, -1]
        self._num_read = len(self.ids)
        assert self._logits is not None  # something was read before, or just now
        return self._logits

    def _check_room(self, count: int) -> None:
        if (length := len(self.ids) + count) > self.max_length:
            raise InputError(
                f"the sequence would be {length} ids long, the model has {self.max_length} positions: give a "
                "shorter recording or less history"
            )
