"""What a CUDA graph does, on a CPU: it repeats the recorded operations on the memory that they were recorded on.

Python is not run again, nothing moves with a buffer that was replaced, and memory that nobody else holds is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from usdm.lm import LanguageModel, cuda_graph
from usdm.lm.cuda_graph import GraphForward
from usdm.lm.slots import SlotCache


class Place:
    """A tensor that lay there before the recording: its memory is not kept alive."""

    def __init__(self, tensor: Tensor) -> None:
        self.memory = StorageWeakRef(tensor.untyped_storage())
        self.layout = tensor.storage_offset(), tensor.shape, tensor.stride()
        self.like = tensor.new_empty(0)

    def tensor(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.memory.cdata)
        assert storage is not None, "use after free: a graph reads memory that was given back"
        return self.like.new_empty(0).set_(storage, *self.layout)


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.made: dict[int, Tensor] = {}  # kept, so that no two have one number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        places = tree_map_only(Tensor, self.place, (args, kwargs))
        result = func(*args, **kwargs)
        tree_map_only(Tensor, lambda tensor: self.made.update({id(tensor): tensor}), result)
        self.operations.append((func, *places, tree_map_only(Tensor, id, result)))
        return result

    def place(self, tensor: Tensor) -> int | Place:
        return id(tensor) if id(tensor) in self.made else Place(tensor)


class RecordedGraph:
    """In the place of `usdm.lm.cuda_graph.CapturedStep`."""

    made: list[RecordedGraph] = []
    capturing = Lock()

    def __init__(self, step: Callable[[], Tensor], beside: RecordedGraph | None = None) -> None:
        assert self.capturing.acquire(blocking=False), "two captures at once in one process"
        try:
            step()
            time.sleep(0.005)  # as long as another thread needs to come in between
            with Recorder() as recorder:
                result = step()
        finally:
            self.capturing.release()
        self.pool: object = object() if beside is None else beside.pool
        self.operations, self.result_of = recorder.operations, id(result)
        self.result = result.clone()
        RecordedGraph.made.append(self)

    def __call__(self) -> Tensor:
        known: dict[int, Tensor] = {}

        def found(place: int | Place) -> Tensor:
            return known[place] if isinstance(place, int) else place.tensor()

        for func, args, kwargs, numbers in self.operations:
            # Numbers of tensors stand among plain numbers: a tensor's is one that was made.
            result = func(*_with(args, found, known), **_with(kwargs, found, known))
            _learn(numbers, result, known)
        return self.result.copy_(known[self.result_of])


def _with(values: Any, found: Callable[[Any], Tensor], known: dict[int, Tensor]) -> Any:
    return torch.utils._pytree.tree_map(
        lambda value: found(value) if isinstance(value, Place) or (type(value) is int and value in known) else value,
        values,
    )


def _learn(numbers: Any, result: Any, known: dict[int, Tensor]) -> None:
    flat = torch.utils._pytree.tree_leaves(numbers), torch.utils._pytree.tree_leaves(result)
    known.update({number: value for number, value in zip(*flat, strict=True) if isinstance(value, Tensor)})


@pytest.fixture
def recorded_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RecordedGraph]]:
    """Models on this CPU are taken for models on one GPU, and their graphs are recorded."""

    def begin(self: GraphForward, model: LanguageModel, cache: SlotCache) -> None:
        own(self, model, cache)
        self._captured = True

    own = GraphForward.__init__
    monkeypatch.setattr(GraphForward, "__init__", begin)
    monkeypatch.setattr(cuda_graph, "CapturedStep", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    for module in ("batch", "generation"):
        monkeypatch.setattr(f"usdm.lm.{module}.is_on_one_gpu", lambda model: True)
    RecordedGraph.made = []
    yield RecordedGraph.made
    RecordedGraph.made = []
