"""Single tokens on a GPU without the time that their launches take.

A step of a large model is some thousand small kernels, and starting them from Python takes longer than running
them. A CUDA graph starts them all at once, as long as every tensor stays where it is: ids and positions come
through fixed buffers, keys and values lie in the slots' buffers, and one graph is kept for each number of rows
and each length of the attention, both rounded up. What a graph reads is reserved once: the rotations of the model's
whole context, and room for an ordinary dialog, so that buffers seldom move and graphs are seldom made anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock, RLock
from typing import Any

import torch
from torch import Tensor

from usdm.lm.head import AllowedIds
from usdm.lm.mistral import LanguageModel
from usdm.lm.model import max_positions
from usdm.lm.packed import PackedForward
from usdm.lm.slots import FIRST_LENGTH, ForwardInput, SlotCache, SlotMapping

WARM_UPS = 2  # runs before a capture, in which libraries choose their kernels and take their workspaces
RESERVED = 2048  # positions of a slot from the start: a question and a reply of 15 s each, with their texts
# Positions that a model's idle forwards hold together: of a 7B model with 8 key heads in bfloat16 that is 1 GB.
IDLE_POSITIONS = 8192

logger = logging.getLogger(__name__)
_capturing = Lock()  # a process may capture one graph at a time


class GraphForward:
    """`PackedForward`, with single tokens by graphs on a GPU, and by the same fixed step without them elsewhere."""

    def __init__(self, model: LanguageModel, cache: SlotCache) -> None:
        self.cache = cache
        self.packed = PackedForward(model, cache)
        self.device = model.device
        self.weights_at = _addresses(model)
        self._captured = self.device.type == "cuda"
        self._made_for = (0, 0, 0)  # slots and positions of the cache, and where the rotations lie
        self._steps: dict[tuple[int, int], Callable[[], Tensor]] = {}
        context = max_positions(model)
        cache.reserve(RESERVED if context is None else min(RESERVED, context + 1))
        # A beam search over these weights in slots of its own must find all that it needs: graphs know the address.
        self.packed.weights.rotations.reserve(cache.reserved if context is None else _power_of_two(context + 1))

    def __call__(self, reads: Sequence[ForwardInput]) -> Tensor:
        """-> (R, hidden): the last state of each of R sequences."""
        # One position more than any sequence fills takes what idle rows write.
        self.cache.reserve(max(read.end for read in reads) + 1)
        single = [place for place, read in enumerate(reads) if len(read.ids) == 1 and read.start]
        if len(single) == len(reads):
            return self._decode(reads)
        if not single:
            return self.packed(reads)
        longer = [place for place in range(len(reads)) if place not in set(single)]
        parts = (self._decode([reads[i] for i in single]), self.packed([reads[i] for i in longer]))
        return torch.cat(parts)[torch.tensor([*single, *longer], device=self.device).argsort()]

    def logits(self, states: Tensor, allowed: AllowedIds) -> Tensor:
        """(R, hidden) -> (R, A)"""
        return self.packed.logits(states, allowed)

    def in_slots(self, cache: SlotCache) -> PackedForward:
        """`PackedForward` over another cache."""
        return self.packed.in_slots(cache)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Make the steps of one row for every length that is reserved. Nothing may have been read before."""
        self._follow_buffers()
        length = FIRST_LENGTH
        while length <= self.cache.reserved:
            self._step(1, length)()
            length *= 2

    def _decode(self, reads: Sequence[ForwardInput]) -> Tensor:
        self._follow_buffers()
        rows = min(_power_of_two(max(read.slot for read in reads) + 1), self.cache.num_slots)
        length = min(max(FIRST_LENGTH, _power_of_two(max(read.end for read in reads))), self.cache.reserved)
        ids, positions = [0] * rows, [self.cache.reserved - 1] * rows
        for read in reads:
            ids[read.slot], positions[read.slot] = read.ids[0], read.start
        self.ids[:rows] = torch.tensor(ids)
        self.positions[:rows] = torch.tensor(positions)
        states = self._step(rows, length)()
        return states[[read.slot for read in reads]]  # a copy: the next step writes over them

    def _follow_buffers(self) -> None:
        """Forget what was made for the buffers of the cache and the rotations if they have moved since."""
        num_slots, rotations = self.cache.num_slots, self.packed.weights.rotations
        rotations.reserve(self.cache.reserved)
        made_for = num_slots, self.cache.reserved, rotations.cosines.data_ptr()
        if made_for == self._made_for:
            return
        self._made_for = made_for
        self._steps.clear()
        self.ids = torch.zeros(num_slots, dtype=torch.int64, device=self.device)
        self.positions = torch.zeros_like(self.ids)
        self.slots = torch.arange(num_slots, device=self.device)

    def _step(self, rows: int, length: int) -> Callable[[], Tensor]:
        """What runs the fixed step of that size: -> (rows, hidden)"""
        if (rows, length) not in self._steps:
            self._steps[rows, length] = self._made(rows, length)
        return self._steps[rows, length]

    def _made(self, rows: int, length: int) -> Callable[[], Tensor]:
        ids, positions = self.ids[:rows], self.positions[:rows]
        aim = SlotMapping(self.slots[:rows], positions, slice(rows), length)

        def step() -> Tensor:
            self.cache.aim(aim)
            return self.packed.through_layers(ids, positions, rows, length)

        if not self._captured:
            return step
        try:
            with _capturing, torch.cuda.device(self.device):
                beside = next((each for each in self._steps.values() if isinstance(each, CapturedStep)), None)
                return CapturedStep(step, beside)
        except RuntimeError as error:
            logger.warning("CUDA graphs do not work here (%s): tokens are slower than they could be", error)
            self._captured = False
            return step


class CapturedStep:
    """A step over fixed tensors as a CUDA graph. Its result is overwritten by its next run."""

    def __init__(self, step: Callable[[], Tensor], beside: CapturedStep | None = None) -> None:
        """`beside`: another one, whose memory it shares. The two must never run at the same time.

        (`torch.cuda.graph` would empty the allocator's cache first, which the next forward has to fill again.)
        """
        self.graph = torch.cuda.CUDAGraph()
        stream = _capture_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                step()
            stream.synchronize()
            pool = None if beside is None else beside.graph.pool()
            self.graph.capture_begin(pool, capture_error_mode="thread_local")  # other threads use the GPU meanwhile
            try:
                self.result = step()
            finally:
                self.graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)

    def __call__(self) -> Tensor:
        self.graph.replay()
        return self.result


@lru_cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """One for all captures: libraries keep a workspace for each stream that they have worked on."""
    return torch.cuda.Stream(device)


class IdleForwards:
    """Forwards of one slot that nobody uses now, the newest last.

    Graphs take longer to make than a reply to write: a stream that ends leaves its own to the next one. A copy of a
    model that has some begins with none.
    """

    def __init__(self) -> None:
        self._forwards: list[GraphForward] = []
        self._lock = RLock()  # streams end wherever garbage is collected, in the middle of `take` too

    def take(self, model: LanguageModel) -> GraphForward | None:
        """The newest that was made for the model's weights where they lie now."""
        with self._lock:
            while self._forwards:
                forward = self._forwards.pop()
                if forward.weights_at == _addresses(model):
                    return forward
        return None

    def put(self, forward: GraphForward) -> None:
        """Keep it if it is not too long, and let the oldest go that are too many."""
        if forward.cache.reserved > IDLE_POSITIONS:
            return
        with self._lock:
            self._forwards.append(forward)
            while sum(each.cache.reserved for each in self._forwards) > IDLE_POSITIONS:
                self._forwards.pop(0)

    def __len__(self) -> int:
        return len(self._forwards)

    def __reduce__(self) -> tuple[Any, ...]:
        return IdleForwards, ()


def borrowed(model: LanguageModel) -> GraphForward:
    """A forward of one slot that nobody else uses. `give_back` what is no longer needed."""
    return _idle(model).take(model) or GraphForward(model, SlotCache(model.config.num_hidden_layers, 1))


def give_back(model: LanguageModel, forward: GraphForward) -> None:
    """Let another stream use it."""
    _idle(model).put(forward)


def _idle(model: LanguageModel) -> IdleForwards:
    """Kept by the model itself, since they hold the model: all of them go together."""
    idle: IdleForwards = vars(model).setdefault("idle_forwards", IdleForwards())
    return idle


def _addresses(model: LanguageModel) -> tuple[int, ...]:
    """Where the weights lie: what a graph has been made for."""
    return tuple(weight.data_ptr() for weight in model.parameters())


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
