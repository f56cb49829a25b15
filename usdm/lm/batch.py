"""Continuous batching: many scripts at once, each in its own slot of one cache.

Rows that are finished leave and new ones enter between any two steps (Orca, OSDI 2022), so that no row waits
for a longer one. What a row writes does not depend on the others beyond rounding: it has its own ids, limits,
constraints and generator of random numbers, and attends to its own slot alone.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from transformers import PreTrainedModel

from usdm.lm.cuda_graph import GraphForward
from usdm.lm.generation import Generated, check_room
from usdm.lm.head import AllowedIds
from usdm.lm.model import max_positions
from usdm.lm.packed import PackedForward
from usdm.lm.padded import PaddedForward
from usdm.lm.sampling import Sampler, draw_all
from usdm.lm.script import Script, Write
from usdm.lm.slots import Read, SlotCache
from usdm.lm.weights import is_llama_like, is_on_cpu_in_float32, is_on_one_gpu
from usdm.types import InputError

IDS_AT_ONCE = 4096  # read in one forward: what bounds the memory of many prompts at once

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class ContinuousBatch:
    """Plays scripts on one model, up to `capacity` of them at once.

    The cache holds `capacity` sequences, as long as the longest so far. Raises InputError for a capacity below 1,
    or a model whose attention cannot work on a batch.
    """

    def __init__(self, model: PreTrainedModel, capacity: int) -> None:
        if capacity < 1:
            raise InputError(f"capacity={capacity}: a batch holds 1 sequence or more")
        self.model = model
        self.capacity = capacity
        self.max_length = max_positions(model) or sys.maxsize
        self._cache = SlotCache(model.config.get_text_config().num_hidden_layers, capacity)
        self._forward = forward_for(model)(model, self._cache)

    def run(self, scripts: Iterable[tuple[Key, Script[Result]]]) -> Iterator[tuple[Key, Result | Exception]]:
        """Play scripts to their ends, and yield each one's result as soon as it has one.

        The next script is taken when a slot is free for it; while the iterable makes one wait, all wait. An
        InputError that a script raises, or does not handle, ends that script alone and stands in its result's
        place; any other error ends the run. Closing the iterator early closes all scripts.
        """
        waiting = iter(scripts)
        rows: list[_Row] = []  # each in the slot of its place here
        exhausted = False
        try:
            while True:
                while not exhausted and len(rows) < self.capacity:
                    for key, script in waiting:
                        row = _Row(key, script, self.max_length, self.model.device)
                        break
                    else:
                        exhausted = True
                        break
                    row.start()
                    if row.ended:
                        yield row.key, row.outcome
                    else:
                        rows.append(row)
                if not rows:
                    return
                self._step(rows)
                for slot in reversed(range(len(rows))):
                    if rows[slot].ended:
                        row = self._leave(rows, slot)
                        yield row.key, row.outcome
        finally:
            for row in rows:
                row.script.close()

    @torch.inference_mode()
    def _step(self, rows: Sequence[_Row]) -> None:
        """One forward, and one id for every row that took part in it."""
        slots = _fitting([len(row.ids) - row.num_read for row in rows])
        reads = [Read(slot, rows[slot].num_read, rows[slot].ids[rows[slot].num_read :]) for slot in slots]
        states = self._forward(reads)
        alike: defaultdict[int, list[int]] = defaultdict(list)  # rows that may write the same
        for place, slot in enumerate(slots):
            rows[slot].num_read = len(rows[slot].ids)
            alike[id(rows[slot].allowed)].append(place)
        for places in alike.values():
            drawing = [rows[slots[place]] for place in places]
            chosen = states if len(places) == len(states) else states[torch.tensor(places, device=states.device)]
            logits = self._forward.logits(chosen, drawing[0].allowed)
            for row, index in zip(drawing, draw_all([row.sampler for row in drawing], logits), strict=True):
                row.take(index)

    @torch.inference_mode()
    def _leave(self, rows: list[_Row], slot: int) -> _Row:
        """Take a row out; the last one fills its place, so that slots in use stay side by side."""
        leaving, last = rows[slot], rows.pop()
        if last is not leaving:
            rows[slot] = last
            self._cache.move(len(rows), slot, last.num_read)
        return leaving


def forward_for(model: PreTrainedModel) -> type[PackedForward | GraphForward | PaddedForward]:
    """The fastest that computes what the model does, where it lies."""
    if is_llama_like(model):
        if is_on_one_gpu(model):
            return GraphForward
        if is_on_cpu_in_float32(model):
            return PackedForward
    return PaddedForward


@dataclass(eq=False)
class _Row(Generic[Key, Result]):
    """One script, as far as it has come."""

    key: Key
    script: Script[Result]
    max_length: int
    device: torch.device
    ids: list[int] = field(default_factory=list)
    num_read: int = 0  # ids in the cache
    ended: bool = False
    outcome: Any = None  # the script's result, or its error
    # the stage that it writes
    request: Write = field(init=False)
    allowed: AllowedIds = field(init=False)
    sampler: Sampler = field(init=False)
    limit: int = field(init=False)
    written: list[int] = field(init=False)

    def start(self) -> None:
        """Go to the script's first stage."""
        self._advance(None)

    def take(self, index: int) -> None:
        """Go on by one drawn id, given as its index among the allowed ones."""
        id_ = self.allowed.ids[index]
        if id_ in self.request.stop_ids:
            self._advance(Generated(self.written, stopped=True))
            return
        self.written.append(id_)
        self.ids.append(id_)
        if len(self.written) == self.limit:
            self._advance(Generated(self.written, stopped=False))

    def _advance(self, generated: Generated | None) -> None:
        """Send what was written; begin the next stage that can begin, or end."""
        error: Exception | None = None
        try:
            while True:
                if error is not None:
                    request = self.script.throw(error)
                else:
                    request = next(self.script) if generated is None else self.script.send(generated)
                try:
                    return self._begin(request)
                except InputError as wrong:
                    error = wrong
        except StopIteration as end:
            self.ended, self.outcome = True, end.value
        except InputError as wrong:
            self.ended, self.outcome = True, wrong

    def _begin(self, request: Write) -> None:
        check_room(len(self.ids) + len(request.ids), self.max_length)
        self.ids.extend(request.ids)
        if not self.ids:
            raise InputError("there is nothing to continue: the script's first ids are empty")
        check_room(len(self.ids) + 1, self.max_length)
        self.sampler = Sampler(request.sampling)
        self.request = request
        self.allowed = AllowedIds.of(request.allowed, self.device)
        self.limit = min(request.sampling.max_new_tokens, self.max_length - len(self.ids))
        self.written = []


def _fitting(lengths: Sequence[int]) -> list[int]:
    """Places of what is read next: all single ids, and of longer reads as many as one forward should take."""
    chosen: list[int] = []
    room = IDS_AT_ONCE
    for place, length in enumerate(lengths):
        if length == 1 or length <= room or not chosen:
            chosen.append(place)
            room -= length
    return chosen
