"""Steps as CUDA graphs, without a GPU: recorded operations are repeated on the memory that they were recorded on."""

from __future__ import annotations

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from lm_models import random_ids, random_model
from recorded_graphs import RecordedGraph, recorded_graphs  # noqa: F401
from tiny_models import llama_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode

from usdm.lm import (
    ContinuousBatch,
    GenerateRequest,
    LanguageModel,
    StageProgram,
    TokenStream,
    cuda_graph,
    finish,
    play,
    warm_up,
)
from usdm.lm.generation import is_on_cpu_in_float32
from usdm.lm.slots import SlotCache, SlotMapping
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.types import Sampling

Graphs = list[RecordedGraph]


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(llama_tokenizer(), 50))


@pytest.fixture
def model(vocabulary: SpeechTextVocabulary) -> LanguageModel:
    return random_model(vocabulary, "mistral")


def writes(seed: int, vocabulary: SpeechTextVocabulary, length: int, num_beams: int = 1) -> StageProgram[list[int]]:
    """`length` ids in, a search of some, and a few more greedily."""
    ids = random_ids(seed, length, vocabulary)
    searched = yield GenerateRequest(
        "respond", ids, vocabulary.text_mask, (), Sampling(max_new_tokens=5, num_beams=num_beams)
    )
    written = yield GenerateRequest(
        "speak", random_ids(seed + 9, 2, vocabulary), vocabulary.unit_mask, (), Sampling(max_new_tokens=6)
    )
    return searched.ids + written.ids


def eager(model: LanguageModel, program: StageProgram[list[int]], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By the ordinary forward of this CPU."""
    with monkeypatch.context() as patch:
        patch.setattr("usdm.lm.generation.is_on_one_gpu", lambda model: False)
        assert is_on_cpu_in_float32(model)
        return finish(play(program, TokenStream(model)))


def test_graphs_write_the_same_and_survive_a_beam_search_over_their_weights(
    model: LanguageModel,
    vocabulary: SpeechTextVocabulary,
    recorded_graphs: Graphs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = TokenStream(model)
    programs = [(1, 40, 1), (2, 900, 4), (3, 30, 1)]
    expected = [eager(model, writes(k, vocabulary, length, beams), monkeypatch) for k, length, beams in programs]
    table = stream._forward.packed.weights.rotations.cosines.data_ptr()
    for (seed, length, beams), ids in zip(programs, expected, strict=True):
        assert finish(play(writes(seed, vocabulary, length, beams), stream)) == ids
        stream.rollback(0)
    assert stream._forward.packed.weights.rotations.cosines.data_ptr() == table  # graphs know its address
    made = len(recorded_graphs)
    assert made == 2  # of 256 and of 1024 positions: nothing moved, so none was made twice
    assert len({id(graph.pool) for graph in recorded_graphs}) == 1
    finish(play(writes(1, vocabulary, 40), stream))
    assert len(recorded_graphs) == made


def test_graphs_are_made_anew_where_buffers_move(
    model: LanguageModel,
    vocabulary: SpeechTextVocabulary,
    recorded_graphs: Graphs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_graph, "RESERVED", 256)
    monkeypatch.setattr(cuda_graph, "max_positions", lambda model: None)  # so that the rotations grow too
    stream = TokenStream(model)
    for seed, length in ((1, 20), (2, 300), (3, 700), (4, 10)):
        expected = eager(model, writes(seed, vocabulary, length, 3), monkeypatch)
        assert finish(play(writes(seed, vocabulary, length, 3), stream)) == expected
        stream.rollback(0)
        gc.collect()
    assert len({id(graph.pool) for graph in recorded_graphs}) > 1


def test_unequal_lengths_at_once(
    model: LanguageModel,
    vocabulary: SpeechTextVocabulary,
    recorded_graphs: Graphs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = {1: 3, 2: 250, 3: 900, 4: 30, 5: 254}
    expected = {seed: eager(model, writes(seed, vocabulary, k, 2), monkeypatch) for seed, k in lengths.items()}
    batch = ContinuousBatch(model, 2)  # becomes wider
    assert dict(batch.run((seed, writes(seed, vocabulary, k, 2)) for seed, k in lengths.items())) == expected
    assert recorded_graphs


def test_two_threads_capture_one_after_the_other(
    model: LanguageModel,
    vocabulary: SpeechTextVocabulary,
    recorded_graphs: Graphs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`RecordedGraph` fails where two are made at once, as CUDA does."""
    seeds = range(6)
    expected = [eager(model, writes(seed, vocabulary, 200 + 20 * seed), monkeypatch) for seed in seeds]
    with ThreadPoolExecutor(3) as threads:
        found = threads.map(lambda k: finish(play(writes(k, vocabulary, 200 + 20 * k), TokenStream(model))), seeds)
        assert list(found) == expected
    assert all(forward._captured for forward in cuda_graph._idle(model)._forwards)


def test_idle_forwards_are_bounded_and_go_with_their_model(
    model: LanguageModel,
    vocabulary: SpeechTextVocabulary,
    recorded_graphs: Graphs,  # noqa: F811
) -> None:
    idle = cuda_graph._idle(model)
    streams = [TokenStream(model) for _ in range(12)]
    for seed, stream in enumerate(streams):
        stream.extend(random_ids(seed, 20, vocabulary))
    stream._forward.cache.reserve(2 * cuda_graph.IDLE_POSITIONS)
    del stream
    while streams:  # the longest ends last
        del streams[0]
    gc.collect()
    positions = [forward.cache.reserved for forward in idle._forwards]
    assert positions == [2048] * 4 and sum(positions) <= cuda_graph.IDLE_POSITIONS
    assert len(cuda_graph._idle(copy.deepcopy(model))) == 0 and len(idle) == len(positions)
    state = model.state_dict()
    assert not any("idle" in name for name in state)


def test_warming_up_leaves_nothing_to_capture(
    model: LanguageModel,
    vocabulary: SpeechTextVocabulary,
    recorded_graphs: Graphs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = eager(model, writes(1, vocabulary, 1000), monkeypatch)
    warm_up(model)
    made = len(recorded_graphs)
    assert made == 4 and len(cuda_graph._idle(model)) == 1  # 256, 512, 1024 and 2048 positions
    assert finish(play(writes(1, vocabulary, 1000), TokenStream(model))) == expected
    assert len(recorded_graphs) == made


class Largest(TorchDispatchMode):
    """The most elements that one operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        result = func(*args, **(kwargs or {}))  # type: ignore[operator]
        before = {each.untyped_storage().data_ptr() for each in args if isinstance(each, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in before:
            self.elements = max(self.elements, result.numel())
        return result


def test_slots_are_cut_before_they_are_gathered() -> None:
    cache = SlotCache(1, 6)
    cache.reserve(4096)
    rows = torch.tensor([4, 1])
    new = torch.randn(2, 3, 8)
    cache.aim(SlotMapping(rows, torch.tensor([5, 9]), rows, 10))
    (layer,) = cache.layers
    layer.write(new, new)  # has its buffers now
    with Largest() as largest:
        keys, values = layer.write(new, -new)
    assert keys.shape == values.shape == (2, 3, 10, 8) and largest.elements == keys.numel()
    assert torch.equal(keys[0, :, 5], new[0]) and torch.equal(values[1, :, 9], -new[1])
