"""Single tokens on a GPU without the time that their launches take.

A step of a large model is some thousand small kernels, and starting them from Python takes longer than running
them. A CUDA graph starts them all at once, as long as every tensor stays where it is: ids and positions come
through fixed buffers, keys and values lie in the slots' buffers, and one graph is kept for each number of rows
and each length of the attention, both rounded up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from usdm.lm.head import AllowedIds
from usdm.lm.mistral import LanguageModel
from usdm.lm.packed import PackedForward
from usdm.lm.slots import FIRST_LENGTH, ForwardInput, SlotCache, SlotMapping

WARM_UPS = 2  # runs before a capture, in which libraries choose their kernels and take their workspaces

logger = logging.getLogger(__name__)


class GraphForward:
    """`PackedForward`, with single tokens by graphs on a GPU, and by the same fixed step without them elsewhere."""

    def __init__(self, model: LanguageModel, cache: SlotCache) -> None:
        self.cache = cache
        self.packed = PackedForward(model, cache)
        self.device = model.device
        self.weights_at = _addresses(model)
        self._captured = self.device.type == "cuda"
        self._made_for = (0, 0)  # slots and positions of the cache
        self._steps: dict[tuple[int, int], Callable[[], Tensor]] = {}

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

    def _decode(self, reads: Sequence[ForwardInput]) -> Tensor:
        self._follow_cache()
        rows = min(_power_of_two(max(read.slot for read in reads) + 1), self.cache.num_slots)
        length = min(max(FIRST_LENGTH, _power_of_two(max(read.end for read in reads))), self.cache.reserved)
        ids, positions = [0] * rows, [self.cache.reserved - 1] * rows
        for read in reads:
            ids[read.slot], positions[read.slot] = read.ids[0], read.start
        self.ids[:rows] = torch.tensor(ids)
        self.positions[:rows] = torch.tensor(positions)
        states = self._step(rows, length)()
        return states[[read.slot for read in reads]]  # a copy: the next step writes over them

    def _follow_cache(self) -> None:
        """Forget what was made for the cache's buffers if they have moved since."""
        num_slots, reserved = size = self.cache.num_slots, self.cache.reserved
        if size == self._made_for:
            return
        self._made_for = size
        self._steps.clear()
        self.packed.weights.rotations.reserve(reserved)
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
            with torch.cuda.device(self.device):
                return captured(step)
        except RuntimeError as error:
            logger.warning("CUDA graphs do not work here (%s): tokens are slower than they could be", error)
            self._captured = False
            return step


def captured(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A step over fixed tensors as a CUDA graph. Its result is overwritten by its next run."""
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the GPU meanwhile
        result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


# Graphs take longer to make than a reply to write: a stream that ends leaves its own to the next one.
_idle: WeakKeyDictionary[LanguageModel, list[GraphForward]] = WeakKeyDictionary()


def borrowed(model: LanguageModel) -> GraphForward:
    """A forward of one slot that nobody else uses. `give_back` what is no longer needed."""
    idle = _idle.setdefault(model, [])
    while idle:
        forward = idle.pop()
        if forward.weights_at == _addresses(model):
            return forward
    return GraphForward(model, SlotCache(model.config.num_hidden_layers, 1))


def give_back(model: LanguageModel, forward: GraphForward) -> None:
    """Let another stream use it."""
    _idle.setdefault(model, []).append(forward)


def _addresses(model: LanguageModel) -> tuple[int, ...]:
    """Where the weights lie: what a graph has been made for."""
    return tuple(weight.data_ptr() for weight in model.parameters())


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
