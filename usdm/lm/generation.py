"""Constrained generation over one sequence and one key-value cache.

The stages of a chain continue each other, so whatever one stage has read or written is never read again: the
next one extends the same stream. Each stage has its own allowed ids, stop id and sampling.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import finalize

import torch
from torch import Tensor

from usdm.lm.beams import BeamSearch, Hypothesis
from usdm.lm.cuda_graph import GraphForward, borrowed, give_back
from usdm.lm.head import AllowedIds
from usdm.lm.mistral import LanguageModel
from usdm.lm.model import max_positions
from usdm.lm.packed import PackedForward
from usdm.lm.sampling import Sampler
from usdm.lm.single_token import SingleTokenForward
from usdm.lm.slots import CachedLayer, ForwardInput, SlotCache
from usdm.lm.weights import LlamaWeights, is_llama_like, is_on_cpu_in_float32, is_on_one_gpu
from usdm.types import InputError, Sampling

if TYPE_CHECKING:
    from usdm.lm.cache import GrowingForward


@dataclass(frozen=True)
class Generated:
    """What a stage wrote, without its stop id."""

    ids: list[int]
    stopped: bool  # False: the limit came before a stop id


class TokenStream:
    """A sequence that grows: `ids`, and a cache that holds what the model has read of them."""

    def __init__(self, model: LanguageModel, beside: TokenStream | None = None) -> None:
        """`beside`: another stream of the same model, for the same thread, whose copies of weights it shares."""
        self.model = model
        self.ids: list[int] = []
        self.max_length = max_positions(model) or sys.maxsize
        self._forward = self._fastest(beside)
        self._single = self._forward_of_one()
        self._num_read = 0  # ids in the cache
        self._state: Tensor | None = None  # (1, hidden) after the last one read; (1, V) logits of a stranger

    def _fastest(self, beside: TokenStream | None) -> PackedForward | GraphForward | GrowingForward:
        """Of what computes what the model does, where it lies."""
        if is_llama_like(self.model) and is_on_one_gpu(self.model):
            graphs = borrowed(self.model)
            finalize(self, give_back, self.model, graphs)
            return graphs
        if is_llama_like(self.model) and is_on_cpu_in_float32(self.model):
            slots = SlotCache(self.model.config.num_hidden_layers, 1)
            shared = None if beside is None else beside._forward
            weights = shared.weights if isinstance(shared, PackedForward) else LlamaWeights(self.model)
            return PackedForward(self.model, slots, weights)
        from usdm.lm.cache import GrowingForward  # with the models of `transformers`, which take seconds to import

        return GrowingForward(self.model)

    def _forward_of_one(self) -> SingleTokenForward | None:
        """For what comes after the first, where there is a faster way for one id."""
        forward = self._forward
        return SingleTokenForward(forward.weights, forward.cache) if isinstance(forward, PackedForward) else None

    @property
    def num_read(self) -> int:
        """Of its ids the first so many have keys and values in `layers`."""
        return self._num_read

    @property
    def layers(self) -> Sequence[CachedLayer]:
        """Its cache."""
        layers: Sequence[CachedLayer] = self._forward.cache.layers
        return layers

    @torch.inference_mode()
    def extend(self, ids: Sequence[int]) -> None:
        """Append ids and read them. Raises InputError if the sequence outgrows the model's positions."""
        if ids:
            check_room(len(self.ids) + len(ids), self.max_length)
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

    def write(self, allowed: Tensor, stop_ids: Collection[int], sampling: Sampling) -> Generator[int, None, Generated]:
        """Write on until a stop id, the sampling's token limit, or the model's last position.

        Yields each id as soon as it is drawn, those of a beam search when it is over, and returns them all.
        allowed: (V,) bool, the stop ids included.
        What is written becomes part of the sequence; the stop id does not (extend with it). Raises InputError if
        there is nothing to continue, or no room for one id.
        """
        if not self.ids:
            raise InputError("there is nothing to continue: extend the stream with a prompt first")
        check_room(len(self.ids) + 1, self.max_length)
        allowed_ids = AllowedIds.of(allowed, self.model.device)
        sampler = Sampler(sampling)
        limit = min(sampling.max_new_tokens, self.max_length - len(self.ids))
        if sampling.num_beams > 1:
            best = self._search(BeamSearch(sampling.num_beams, allowed_ids, stop_ids, limit))
            for id_ in best.ids:
                self.ids.append(id_)
                yield id_
            return Generated([*best.ids], best.stopped)
        written: list[int] = []
        for _ in range(limit):
            id_ = allowed_ids.ids[self._draw(sampler, allowed_ids)]
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
    def log_probabilities(self, allowed: AllowedIds) -> Tensor:
        """(A,) float32, of each of the allowed ids to come next. There must be an id before."""
        return self._forward.logits(self._read(), allowed)[0].float().log_softmax(dim=0)

    @torch.inference_mode()
    def _draw(self, sampler: Sampler, allowed: AllowedIds) -> int:
        return sampler.draw(self._forward.logits(self._read(), allowed)[0])

    @torch.inference_mode()
    def _search(self, search: BeamSearch) -> Hypothesis:
        """Follow the hypotheses in slots of their own; the stream stays as it is."""
        parents = search.advance(self._forward.logits(self._read(), search.allowed))
        length = len(self.ids)
        slots = SlotCache(len(self.layers), search.num_beams)
        slots.fill(self.layers, length)
        forward = self._forward.in_slots(slots)
        end = length
        while parents:
            moved = [slot for slot, parent in enumerate(parents) if parent != slot]
            if moved and end > length:  # the slots differ in what lies after the prompt
                slots.copy([parents[slot] for slot in moved], moved, slice(length, end))
            states = forward([ForwardInput(slot, end, each.ids[-1:]) for slot, each in enumerate(search.live)])
            parents = search.advance(forward.logits(states, search.allowed))
            end += 1
        return search.best

    def _read(self) -> Tensor:
        """Let the model read what it has not yet: -> (1, hidden) state, or (1, V) logits, after the last id."""
        new = self.ids[self._num_read :]
        if len(new) == 1 and self._single is not None and self._num_read:
            self._state = self._single(new[0], self._num_read)
        elif new:
            self._state = self._forward([ForwardInput(0, self._num_read, new)])
        self._num_read = len(self.ids)
        assert self._state is not None  # something was read before, or just now
        return self._state


def warm_up(model: LanguageModel) -> None:
    """Make what the first stream of a model on a GPU would have to wait for: its CUDA graphs."""
    if is_llama_like(model) and is_on_one_gpu(model):
        graphs = borrowed(model)
        graphs.warm_up()
        give_back(model, graphs)


def check_room(length: int, max_length: int) -> None:
    """Raises InputError if a sequence of that length outgrows the model's positions."""
    if length > max_length:
        raise InputError(
            f"the sequence would be {length} ids long, the model has {max_length} positions: give a "
            "shorter recording or less history"
        )
