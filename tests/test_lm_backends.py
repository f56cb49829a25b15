"""Other ways through the same programs: fixed steps made for CUDA graphs, 8-bit weights, vLLM's engine."""

from __future__ import annotations

import gc
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_models import SIZES, random_ids, random_model
from tiny_models import llama_tokenizer
from transformers import PreTrainedModel

from usdm.lm import (
    ContinuousBatch,
    GenerateRequest,
    StageProgram,
    TokenStream,
    build_model,
    cuda_graph,
    finish,
    load_model,
    play,
)
from usdm.lm import batch as batch_module
from usdm.lm import generation as generation_module
from usdm.lm.cuda_graph import GraphForward
from usdm.lm.quantization import Int8Linear
from usdm.lm.vllm import VllmBatch
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.types import InputError, Sampling


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(llama_tokenizer(), 50))


def dialog(
    seed: int, vocabulary: SpeechTextVocabulary, length: int = 0, **sampling: float
) -> StageProgram[list[list[int]]]:
    """Text up to a stop id, then units."""
    ids = random_ids(seed, length or 6 + 17 * seed % 40, vocabulary)
    limit = Sampling(max_new_tokens=9 + seed % 3, **sampling)
    text = yield GenerateRequest("respond", ids, vocabulary.text_mask, {5 + seed % 40}, limit)
    units = yield GenerateRequest(
        "speak", random_ids(seed + 9, 1 + seed % 4, vocabulary), vocabulary.unit_mask, (), limit
    )
    return [text.ids, units.ids]


def alone(model: PreTrainedModel, program: StageProgram[list[list[int]]]) -> list[list[int]]:
    return finish(play(program, TokenStream(model)))


# The fixed step that CUDA graphs capture, run without them


@pytest.mark.parametrize("kind", ["window", "llama", "qwen2"])
def test_fixed_steps_write_the_same(
    vocabulary: SpeechTextVocabulary, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(vocabulary, kind)
    lengths = {0: 0, 1: 252, 2: 0, 3: 508, 4: 0, 5: 0}  # over the first buffers' ends
    expected = {seed: alone(model, dialog(seed, vocabulary, length)) for seed, length in lengths.items()}
    monkeypatch.setattr(batch_module, "is_on_one_gpu", lambda model: True)
    batch = ContinuousBatch(model, 3)
    results = dict(batch.run((seed, dialog(seed, vocabulary, length)) for seed, length in lengths.items()))
    assert results == expected
    assert isinstance(batch._forward, GraphForward) and len(batch._forward._steps) > 1


def test_streams_hand_their_steps_on(vocabulary: SpeechTextVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(vocabulary, "mistral")
    expected = [alone(model, dialog(seed, vocabulary)) for seed in range(3)]
    monkeypatch.setattr(generation_module, "is_on_one_gpu", lambda model: True)
    first, second = TokenStream(model), TokenStream(model)  # two requests at once
    one, two = play(dialog(0, vocabulary), first), play(dialog(1, vocabulary), second)
    next(one), next(two)
    assert [finish(one), finish(two)] == expected[:2]
    first.rollback(3)
    first.extend(random_ids(3, 5, vocabulary))
    with torch.inference_mode():
        again = TokenStream(model)
        again.extend(first.ids)
        torch.testing.assert_close(first._read(), again._read(), atol=1e-4, rtol=1e-4)
    forwards = {id(stream._forward) for stream in (first, second, again)}
    assert len(forwards) == 3
    del first, second, one, two, again
    gc.collect()
    third = TokenStream(model)
    assert id(third._forward) in forwards
    assert finish(play(dialog(2, vocabulary), third)) == expected[2]
    del third
    gc.collect()
    model.double()  # the weights lie elsewhere now: what was made for the old ones is of no use
    assert cuda_graph.borrowed(model).packed.dtype == torch.float64


def test_a_failed_capture_costs_speed_alone(vocabulary: SpeechTextVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(vocabulary, "mistral")
    expected = alone(model, dialog(1, vocabulary))
    monkeypatch.setattr(batch_module, "is_on_one_gpu", lambda model: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())

    def refuses(step: Callable[[], torch.Tensor], beside: object) -> Callable[[], torch.Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "CapturedStep", refuses)
    batch = ContinuousBatch(model, 2)
    batch._forward._captured = True
    assert dict(batch.run([(1, dialog(1, vocabulary))])) == {1: expected}
    assert not batch._forward._captured


# Quantization


def test_int8_is_close_to_the_model(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    model = build_model(vocabulary, **(SIZES | {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.1}))
    model.to(torch.float16).save_pretrained(tmp_path)
    whole, small = load_model(tmp_path), load_model(tmp_path, quantization="int8")
    inner = [module for module in small.modules() if isinstance(module, Int8Linear)]
    assert len(inner) == 7 * SIZES["num_hidden_layers"] and all(module.weight.dtype == torch.int8 for module in inner)
    assert small.dtype == torch.float32
    ids = torch.tensor([random_ids(0, 30, vocabulary)])
    with torch.inference_mode():
        expected, logits = whole(ids).logits, small(ids).logits
    error = (logits - expected).norm() / expected.norm()
    assert 0 < error < 0.05
    # Prompts unpack the weights, single tokens go through the kernel for packed ones.
    stream = TokenStream(small)
    stream.extend(ids[0, :-1].tolist())
    stream.extend(ids[0, -1:].tolist())
    with torch.inference_mode():
        last = small.lm_head(stream._read())[0]
    assert (last - expected[0, -1]).norm() / expected[0, -1].norm() < 0.05


def test_int8_plays_scripts(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    random_model(vocabulary, "qwen2").save_pretrained(tmp_path)
    model = load_model(tmp_path, quantization="int8")
    stages = dict(ContinuousBatch(model, 3).run((seed, dialog(seed, vocabulary)) for seed in range(4)))
    assert all(len(units) >= 9 for _, units in stages.values())


def test_quantization_that_cannot_be_had(
    vocabulary: SpeechTextVocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_model(vocabulary, "mistral").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="quantization='int4': 4 bits need a GPU; take 'int8' on a CPU"):
        load_model(tmp_path, quantization="int4")
    with pytest.raises(InputError, match="quantization='int2': there are int8, int4"):
        load_model(tmp_path, quantization="int2")
    monkeypatch.setattr("usdm.lm.quantization.find_spec", lambda name: None)
    for place in ({"device": "cuda"}, {"device_map": "auto"}):
        with pytest.raises(InputError, match=r"needs package bitsandbytes; pip install 'usdm\[quantized\]'"):
            load_model(tmp_path, quantization="int4", **place)


def test_bitsandbytes_is_asked_for(
    vocabulary: SpeechTextVocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(vocabulary, "mistral")
    model.save_pretrained(tmp_path)
    asked: list[dict[str, Any]] = []
    report = {"missing_keys": [], "unexpected_keys": []}
    monkeypatch.setattr("usdm.lm.quantization.find_spec", lambda name: name)
    monkeypatch.setattr("transformers.BitsAndBytesConfig", lambda **settings: settings)
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained",
        lambda folder, **options: (asked.append(options), (model, report))[1],
    )
    load_model(tmp_path, "cuda:1", quantization="int8")
    load_model(tmp_path, quantization="int4", device_map="auto", dtype=torch.float16)
    assert asked[0]["device_map"] == {"": "cuda:1"} and asked[0]["quantization_config"] == {"load_in_8bit": True}
    assert asked[1]["device_map"] == "auto" and asked[1]["quantization_config"]["load_in_4bit"]
    assert asked[1]["quantization_config"]["bnb_4bit_compute_dtype"] == torch.float16


# vLLM: its engine's interface over our own model


class Engine:
    """Takes and gives what vLLM's engine does. Every step finishes the request that came last."""

    def __init__(self, model: PreTrainedModel, fails: Callable[[list[int]], str | None] = lambda ids: None) -> None:
        """`fails`: the reason for which a request with these ids is given up."""
        self.model = model
        self.fails = fails
        self.requests: dict[str, tuple[list[int], SimpleNamespace]] = {}
        self.most = 0

    def add_request(self, request_id: str, prompt: SimpleNamespace, params: SimpleNamespace) -> None:
        assert request_id not in self.requests
        if self.fails(prompt.prompt_token_ids) == "refused":
            raise ValueError("the prompt is not what this engine takes")
        self.requests[request_id] = (prompt.prompt_token_ids, params)
        self.most = max(self.most, len(self.requests))

    def abort_request(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            del self.requests[request_id]

    def step(self) -> list[SimpleNamespace]:
        request_id, (ids, params) = self.requests.popitem()
        unfinished = [SimpleNamespace(request_id=other, finished=False, outputs=[]) for other in self.requests]
        if reason := self.fails(ids):
            completions = [] if reason == "nothing" else [SimpleNamespace(token_ids=[], finish_reason=reason)]
            return [*unfinished, SimpleNamespace(request_id=request_id, finished=True, outputs=completions)]
        allowed = torch.zeros(self.model.config.vocab_size, dtype=torch.bool)
        allowed[params.allowed_token_ids] = True
        stream = TokenStream(self.model)
        stream.extend(ids)
        sampling = Sampling(params.temperature, params.top_k, params.top_p, 1.0, params.max_tokens, params.seed)
        generated = stream.generate(allowed, params.stop_token_ids, sampling)
        token_ids = [*generated.ids, *params.stop_token_ids] if generated.stopped else generated.ids
        reason = "stop" if generated.stopped else "length"
        completion = SimpleNamespace(token_ids=token_ids, finish_reason=reason)
        return [*unfinished, SimpleNamespace(request_id=request_id, finished=True, outputs=[completion])]


def test_vllm_s_engine_plays_scripts(vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, "mistral")
    engine = Engine(model)
    batch = VllmBatch(engine, 1024, 3, SimpleNamespace, SimpleNamespace)
    results = dict(batch.run((seed, dialog(seed, vocabulary, temperature=0.5)) for seed in range(6)))
    assert results == {seed: alone(model, dialog(seed, vocabulary, temperature=0.5)) for seed in range(6)}
    assert engine.most == 3 and not engine.requests
    programs = {
        "long": dialog(1, vocabulary, 1025),
        "penalty": dialog(2, vocabulary, repetition_penalty=1.2),
        "beams": dialog(3, vocabulary, num_beams=4),
    }
    errors = dict(batch.run(programs.items()))
    assert "1025 ids long" in str(errors["long"]) and "repetition_penalty=1.2" in str(errors["penalty"])
    assert "num_beams=4: vLLM's engine follows one text alone" in str(errors["beams"])
    left = batch.run((seed, dialog(seed, vocabulary)) for seed in range(6))
    next(left)
    left.close()
    assert not engine.requests


@pytest.mark.parametrize("reason", ["error", "abort", "nothing", "refused"])
def test_a_request_that_vllm_gives_up_ends_its_script_alone(vocabulary: SpeechTextVocabulary, reason: str) -> None:
    model = random_model(vocabulary, "mistral")
    ill = random_ids(2, 6 + 17 * 2 % 40, vocabulary)
    for at in (len(ill), len(ill) + 1):  # in its first stage, or in a later one
        engine = Engine(model, lambda ids, at=at: reason if ids[: len(ill)] == ill and len(ids) >= at else None)
        batch = VllmBatch(engine, 1024, 3, SimpleNamespace, SimpleNamespace)
        results = dict(batch.run((seed, dialog(seed, vocabulary)) for seed in range(5)))
        error = results.pop(2)
        assert isinstance(error, InputError) and ("refuses" if reason == "refused" else "up (") in str(error)
        assert results == {seed: alone(model, dialog(seed, vocabulary)) for seed in (0, 1, 3, 4)}
        assert not engine.requests


def test_vllm_s_own_classes_take_what_they_are_given(vocabulary: SpeechTextVocabulary) -> None:
    vllm = pytest.importorskip("vllm")
    made: list[Any] = []
    engine = Engine(random_model(vocabulary, "mistral"))

    def parameters(**given: Any) -> SimpleNamespace:
        made.append(vllm.SamplingParams(**given))
        return SimpleNamespace(**given)

    def prompt(**given: Any) -> SimpleNamespace:
        made.append(vllm.TokensPrompt(**given))
        return SimpleNamespace(**given)

    results = dict(VllmBatch(engine, 1024, 3, parameters, prompt).run([(1, dialog(1, vocabulary))]))
    assert not isinstance(results[1], Exception) and len(made) == 4


def test_a_model_goes_straight_to_its_gpu(
    vocabulary: SpeechTextVocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by way of main memory, where each process would have a copy."""
    model = random_model(vocabulary, "mistral")
    model.save_pretrained(tmp_path)
    asked: list[dict[str, Any]] = []
    report = {"missing_keys": [], "unexpected_keys": []}
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained",
        lambda folder, **options: (asked.append(options), (model, report))[1],
    )
    load_model(tmp_path, "cuda:1")
    load_model(tmp_path)
    assert [each["device_map"] for each in asked] == [{"": "cuda:1"}, None]
    assert all(each["use_safetensors"] for each in asked)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs package vllm .*pip install 'usdm\[vllm\]'"):
        VllmBatch.from_pretrained(tmp_path)
