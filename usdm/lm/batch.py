"""Continuous batching: many programs at once, each in its own slot of one cache.

Rows that are finished leave and new ones enter between any two steps (Orca, OSDI 2022), so that no row waits
for a longer one. What a row writes does not depend on the others beyond rounding: it has its own ids, limits,
constraints and generator of random numbers, and attends to its own slot alone.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from usdm.lm.beams import BeamSearch, Hypothesis
from usdm.lm.cuda_graph import GraphForward
from usdm.lm.generation import Generated, TokenStream, check_room
from usdm.lm.head import AllowedIds
from usdm.lm.mistral import LanguageModel
from usdm.lm.model import max_positions
from usdm.lm.packed import PackedForward
from usdm.lm.sampling import Sampler, draw_all
from usdm.lm.slots import ForwardInput, SlotCache
from usdm.lm.stage_program import GenerateRequest, StageProgram, TokenEvent
from usdm.lm.weights import is_llama_like, is_on_cpu_in_float32, is_on_one_gpu
from usdm.types import InputError

if TYPE_CHECKING:
    from usdm.lm.padded import PaddedForward

IDS_AT_ONCE = 4096  # read in one forward: what bounds the memory of many prompts at once

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """What a step did for one program."""

    key: Any
    written: tuple[TokenEvent, ...]
    ended: bool
    outcome: Any = None  # of a program that has ended: its result, or the InputError that ended it


class ContinuousBatch:
    """Plays programs on one model, up to `capacity` of them at once: all of an iterable with `run`, or step by step.

    The cache holds `capacity` sequences, as long as the longest so far, and more while beams are searched. Raises
    InputError for a capacity below 1, or a model whose attention cannot work on a batch.
    """

    def __init__(self, model: LanguageModel, capacity: int) -> None:
        if capacity < 1:
            raise InputError(f"capacity={capacity}: a batch holds 1 sequence or more")
        self.model = model
        self.capacity = capacity
        self.max_length = max_positions(model) or sys.maxsize
        self._cache = SlotCache(model.config.get_text_config().num_hidden_layers, capacity)
        self._forward = forward_for(model)(model, self._cache)
        self._rows: list[_Row] = []
        self._branches: list[_Branch] = []  # of all rows, each in the slot of its place here

    @property
    def has_room(self) -> bool:
        """For one more program."""
        return len(self._rows) < self.capacity

    @property
    def is_busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._rows)

    def run(self, programs: Iterable[tuple[Key, StageProgram[Result]]]) -> Iterator[tuple[Key, Result | Exception]]:
        """Play programs to their ends, and yield each one's result as soon as it has one.

        The next program is taken when a slot is free for it; while the iterable makes one wait, all wait. An
        InputError that a program raises, or does not handle, ends that program alone and stands in its result's
        place; any other error ends the run. Closing the iterator early closes all programs.
        """
        waiting = iter(programs)
        exhausted = False
        try:
            while True:
                while not exhausted and self.has_room:
                    for key, program in waiting:
                        if (ended := self.enter(key, program)) is not None:
                            yield ended.key, ended.outcome
                        break
                    else:
                        exhausted = True
                if not self.is_busy:
                    return
                for progress in self.step():
                    if progress.ended:
                        yield progress.key, progress.outcome
        finally:
            self.clear()

    def enter(self, key: Key, program: StageProgram[Result], stream: TokenStream | None = None) -> Progress | None:
        """Let a program take part in the steps to come; a program that ends before it writes is reported at once.

        Its sequence goes on from all that `stream` holds, of the same model, which is copied: nothing is read again.
        There must be room.
        """
        row = _Row(key, program, self.max_length, self.model.device, [] if stream is None else list(stream.ids))
        num_read = 0 if stream is None else max(0, min(stream.num_read, len(row.ids) - 1))
        row.start()
        if row.ended:
            return row.progress()
        self._rows.append(row)
        self._enter(self._branches, row, num_read)
        if stream is not None and num_read:
            with torch.inference_mode():
                self._cache.fill(stream.layers, num_read, slice(row.branches[0].slot, row.branches[0].slot + 1))
        return None

    def leave(self, key: Key) -> None:
        """Close a program before its end, and take it out. Nothing happens if it is not there."""
        for row in [row for row in self._rows if row.key == key]:
            self._rows.remove(row)
            row.program.close()
            row.ended = True
        self._drop_branches()

    def clear(self) -> None:
        """Close all programs, and take them out."""
        for row in self._rows:
            row.program.close()
        self._rows.clear()
        self._branches.clear()

    def step(self) -> list[Progress]:
        """Let every program write one id, or a part of its prompt be read: what those that wrote or ended have done."""
        self._step(self._branches)
        done = [row.progress() for row in self._rows if row.ended or row.news]
        self._rows = [row for row in self._rows if not row.ended]
        return done

    @torch.inference_mode()
    def _step(self, branches: list[_Branch]) -> None:
        """One forward, and one id for every branch that took part in it."""
        slots = _fitting([branch.num_unread for branch in branches])
        reads = [ForwardInput(slot, branches[slot].num_read, branches[slot].unread()) for slot in slots]
        states = self._forward(reads)
        alike: defaultdict[int, list[int]] = defaultdict(list)  # branches that may write the same
        for place, read in enumerate(reads):
            branches[read.slot].num_read = read.end
            alike[id(branches[read.slot].row.allowed)].append(place)
        searched: list[tuple[_Row, list[int]]] = []
        for places in alike.values():
            writing = [branches[slots[place]] for place in places]
            chosen = states if len(places) == len(states) else states[torch.tensor(places, device=states.device)]
            searched += _write(writing, self._forward.logits(chosen, writing[0].row.allowed))
        self._follow(branches, searched)
        self._drop_branches()

    @torch.inference_mode()
    def _drop_branches(self) -> None:
        """Take out those that are over."""
        for slot in reversed(range(len(self._branches))):
            if self._branches[slot].is_over:
                self._leave(self._branches, slot)

    def _follow(self, branches: list[_Branch], searched: Sequence[tuple[_Row, list[int]]]) -> None:
        """Let rows' branches be the hypotheses that their searches follow now; `searched` has what each continues."""
        sources: list[int] = []
        targets: list[int] = []
        first, end = sys.maxsize, 0  # positions in which branches differ, or more
        for row, parents in searched:
            read, is_new = row.branches[0].num_read, len(row.branches) < len(parents)
            continued = [row.branches[parent].slot for parent in parents]
            while len(row.branches) < len(parents):
                self._enter(branches, row, read)
            first, end = min(first, 0 if is_new else len(row.ids)), max(end, read)
            for source, branch, hypothesis in zip(continued, row.branches, row.live, strict=True):
                branch.tail = hypothesis.ids
                if source != branch.slot:
                    sources.append(source)
                    targets.append(branch.slot)
        if sources:
            self._cache.copy(sources, targets, slice(first, end))

    def _enter(self, branches: list[_Branch], row: _Row, num_read: int) -> None:
        """Give the row one more branch."""
        branch = _Branch(row, len(branches), num_read)
        row.branches.append(branch)
        branches.append(branch)
        if len(branches) > self._cache.num_slots:
            self._cache.widen(2 * self._cache.num_slots)

    def _leave(self, branches: list[_Branch], slot: int) -> None:
        """Take a branch out; the last one fills its place, so that slots in use stay side by side."""
        last = branches.pop()
        if last.slot != slot:
            branches[slot] = last
            self._cache.copy([last.slot], [slot], slice(last.num_read))
            last.slot = slot


def forward_for(model: LanguageModel) -> type[PackedForward | GraphForward | PaddedForward]:
    """The fastest that computes what the model does, where it lies."""
    if is_llama_like(model):
        if is_on_one_gpu(model):
            return GraphForward
        if is_on_cpu_in_float32(model):
            return PackedForward
    from usdm.lm.padded import PaddedForward  # with the models of `transformers`, which take seconds to import

    return PaddedForward


@dataclass(eq=False)
class _Row(Generic[Key, Result]):
    """One program, as far as it has come."""

    key: Key
    program: StageProgram[Result]
    max_length: int
    device: torch.device
    ids: list[int]
    news: list[TokenEvent] = field(default_factory=list)  # written since its last progress
    branches: list[_Branch] = field(default_factory=list)  # one, or those that its search follows, in its order
    ended: bool = False
    outcome: Any = None  # the program's result, or its error
    # the stage that it writes
    request: GenerateRequest = field(init=False)
    allowed: AllowedIds = field(init=False)
    sampler: Sampler = field(init=False)
    search: BeamSearch | None = field(init=False)
    limit: int = field(init=False)
    written: list[int] = field(init=False)

    def start(self) -> None:
        """Go to the program's first stage."""
        self._advance(None)

    def progress(self) -> Progress:
        """Since it was asked last."""
        written, self.news = tuple(self.news), []
        return Progress(self.key, written, self.ended, self.outcome)

    def take(self, index: int) -> None:
        """Go on by one drawn id, given as its index among the allowed ones."""
        id_ = self.allowed.ids[index]
        if id_ in self.request.stop_ids:
            self._advance(Generated(self.written, stopped=True))
            return
        self.written.append(id_)
        self.news.append(TokenEvent(self.request.stage, id_))
        self.ids.append(id_)
        if len(self.written) == self.limit:
            self._advance(Generated(self.written, stopped=False))

    @property
    def live(self) -> Sequence[Hypothesis]:
        """What its search follows."""
        return () if self.search is None else self.search.live

    def take_best(self, best: Hypothesis) -> None:
        """Go on by the text that a search has found. It is read again: the branch that stays may have read another."""
        del self.branches[1:]
        self.branches[0].tail = ()
        self.branches[0].num_read = len(self.ids)
        self.ids.extend(best.ids)
        self.news.extend(TokenEvent(self.request.stage, id_) for id_ in best.ids)
        self._advance(Generated([*best.ids], best.stopped))

    def _advance(self, generated: Generated | None) -> None:
        """Send what was written; begin the next stage that can begin, or end."""
        error: Exception | None = None
        try:
            while True:
                if error is not None:
                    request = self.program.throw(error)
                else:
                    request = next(self.program) if generated is None else self.program.send(generated)
                try:
                    return self._begin(request)
                except InputError as wrong:
                    error = wrong
        except StopIteration as end:
            self.ended, self.outcome = True, end.value
        except InputError as wrong:
            self.ended, self.outcome = True, wrong

    def _begin(self, request: GenerateRequest) -> None:
        check_room(len(self.ids) + len(request.ids), self.max_length)
        self.ids.extend(request.ids)
        if not self.ids:
            raise InputError("there is nothing to continue: the program's first ids are empty")
        check_room(len(self.ids) + 1, self.max_length)
        self.sampler = Sampler(request.sampling)
        self.request = request
        self.allowed = AllowedIds.of(request.allowed, self.device)
        self.limit = min(request.sampling.max_new_tokens, self.max_length - len(self.ids))
        self.written = []
        beams = request.sampling.num_beams
        self.search = BeamSearch(beams, self.allowed, request.stop_ids, self.limit) if beams > 1 else None


@dataclass(eq=False)
class _Branch:
    """One sequence in the cache: a row's ids and, while it searches, one of its hypotheses after them."""

    row: _Row
    slot: int
    num_read: int  # ids in the cache
    tail: tuple[int, ...] = ()

    @property
    def num_unread(self) -> int:
        return len(self.row.ids) + len(self.tail) - self.num_read

    @property
    def is_over(self) -> bool:
        return self.row.ended or self not in self.row.branches

    def unread(self) -> Sequence[int]:
        read_of_tail = self.num_read - len(self.row.ids)
        return self.tail[read_of_tail:] if read_of_tail >= 0 and self.tail else self.row.ids[self.num_read :]


def _write(writing: Sequence[_Branch], logits: Tensor) -> list[tuple[_Row, list[int]]]:
    """(B, A) logits after B branches, each row's all among them -> rows that search on, and what they continue."""
    rows = dict.fromkeys(branch.row for branch in writing)
    drawing = [row for row in rows if row.search is None]
    going_on: list[tuple[_Row, list[int]]] = []
    if len(drawing) < len(rows):
        place_of = {branch: place for place, branch in enumerate(writing)}
        for row in rows:
            if row.search is None:
                continue
            parents = row.search.advance(logits[[place_of[branch] for branch in row.branches]])
            if parents:
                going_on.append((row, parents))
            else:
                row.take_best(row.search.best)
        logits = logits[[place_of[row.branches[0]] for row in drawing]]
    for row, index in zip(drawing, draw_all([row.sampler for row in drawing], logits), strict=True):
        row.take(index)
    return going_on


def _fitting(lengths: Sequence[int]) -> list[int]:
    """Places of what is read next: all single ids, and of longer reads as many as one forward should take."""
    chosen: list[int] = []
    room = IDS_AT_ONCE
    for place, length in enumerate(lengths):
        if length == 1 or length <= room or not chosen:
            chosen.append(place)
            room -= length
    return chosen
