"""`usdm benchmark` on the smallest models: every figure is there, and stands for what it says."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_models import SHORT_TEMPLATE, build_random_bundle

from usdm.benchmark.answers import LISTENING, WAYS, measure_answers
from usdm.benchmark.batch_server import BatchServer
from usdm.benchmark.benchmark import Benchmark, benchmark
from usdm.benchmark.decoding import measure_decoding, weight_bytes
from usdm.benchmark.figures import figure, interval
from usdm.benchmark.machine import memory_bandwidth, peak_memory
from usdm.benchmark.reference_pipeline import reference_respond
from usdm.benchmark.report import benchmark_table
from usdm.chain import DecoderSampling, GenerationSettings, LoadOptions, SpokenDialogPipeline
from usdm.chain.random_components import random_pipeline, random_tokenizer
from usdm.chain.requests import SynthesisRequest, read_requests
from usdm.cli.benchmark import packaged_questions
from usdm.cli.main import main
from usdm.decoder import UnitDecoderConfig
from usdm.tokens import TemplateSettings
from usdm.types import InputError, Sampling, Waveform
from usdm.units import UnitSettings

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "warmup": 1,
    "repeats": 2,
    "rounds": 1,
    "concurrency": (1, 3),
    "batch": 3,
    "batch_reference": 2,
}


RANDOM: dict[str, Any] = {
    "text_tokens": 7,
    "reply_seconds": 0.5,
    "sampling": DecoderSampling(steps=2),
    "text_size": 600,
    "units": UnitSettings(layer=0, num_units=40, unit_rate=50),
    "encoder": {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [8] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_bias": True,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
    },
    "llm": {
        "model_type": "mistral",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
    "decoder": UnitDecoderConfig(
        n_tokens=40,
        embedding_dim=8,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=2,
        num_hidden_layers=2,
        convpos_width=7,
        convpos_groups=4,
    ),
    "vocoder": {"dim": 16, "intermediate_dim": 32, "num_layers": 1},
}


@pytest.fixture(scope="module")
def pipeline() -> SpokenDialogPipeline:
    return random_pipeline(**RANDOM)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = build_random_bundle(tmp_path / "bundle")
    limits = {stage: Sampling(max_new_tokens=12) for stage in ("transcribe", "respond", "speak")}
    GenerationSettings(limits, DecoderSampling(steps=2, solver="euler", guidance=0.0)).save(folder)
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[SynthesisRequest]:
    folder = tmp_path_factory.mktemp("questions")
    random = np.random.default_rng(0)
    for number in range(2):
        soundfile.write(folder / f"{number}.wav", random.uniform(-0.5, 0.5, 16_000 + 1000 * number), 16_000)
    return read_requests(folder)


@pytest.fixture(scope="module")
def result(pipeline: SpokenDialogPipeline, questions: list[SynthesisRequest]) -> Benchmark:
    return benchmark(pipeline, questions, **SMALL, capacity=2, decoding_tokens=5, decoding_context=20)


def test_every_figure_is_filled(result: Benchmark) -> None:
    names = [row.name for row in result.figures]
    for expected in ("first sound", "whole reply", "real-time factor", "p50", "p95", "batch of 3", "main memory"):
        assert any(expected in name for name in names), expected
    assert len(set(names)) == len(names)
    for row in result.figures:
        assert row.reference > 0 and row.ours > 0 and row.ratio > 0, row
        assert row.pairs in (1, 4)  # two questions, two repeats
        assert (row.low is None) == (row.pairs == 1)
        assert row.low is None or row.high is None or row.low <= row.ratio <= row.high
    assert [level.concurrency for level in result.load] == [1, 3]
    assert all(wait.p50 <= wait.p95 for level in result.load for wait in (level.reference, level.ours))
    assert [level.ours.replies for level in result.load] == [1, 3]
    assert (result.batch.questions, result.batch.published_questions) == (3, 2)
    assert math.isclose(result.decoding.bound * result.decoding.weight_bytes, result.decoding.bandwidth)


def test_runs_come_in_pairs(result: Benchmark) -> None:
    kinds = {(run.procedure, run.question, run.repeat) for run in result.runs}
    assert kinds == {(way, question, repeat) for way in WAYS for question in (0, 1) for repeat in (0, 1)}
    assert len(result.runs) == len(kinds)
    for run in result.runs:
        assert run.units == 25 and run.reply_seconds == pytest.approx(0.5, abs=0.02)
        assert 0 < run.first_sound <= run.seconds
        assert {"units", "transcribe", "respond", "speak", "decode", "vocode"} <= set(run.stages)
        assert (LISTENING in run.stages) == (run.procedure == "live")
    assert result.same_units["whole"] == result.same_units["streamed"] == 1.0


def test_all_of_it_can_be_written(result: Benchmark, tmp_path: Path) -> None:
    read = json.loads(result.save(tmp_path).read_text())
    assert read["figures"][0] == asdict(result.figures[0])
    assert read["facts"]["machine"]["processor"] and torch.__version__.startswith(
        read["facts"]["machine"]["versions"]["torch"]
    )
    assert read["facts"]["settings"]["warmup"] == 1
    assert read["facts"]["model"]["parameters"]["llm"] > 0
    table = benchmark_table(result)
    assert all(row.name in table for row in result.figures)


def test_the_verb(
    tmp_path: Path, questions: list[SynthesisRequest], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reduced = [
        "limit=1",
        "repeats=1",
        "concurrency=[2]",
        "rounds=1",
        "batch=2",
        "batch_reference=1",
        "decoding_tokens=3",
    ]
    arguments = [f"questions={questions[0].folder}", f"output_dir={tmp_path / 'out'}", "decoding_context=10", *reduced]
    assert main(["benchmark", f"model.name={bundle}", "device=cpu", *arguments]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"benchmark.json", "benchmark.md", "benchmark.png"}
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    told = capsys.readouterr().out
    assert "published procedure" in told and "benchmark.json" in told


def test_the_packaged_questions_last_about_three_seconds() -> None:
    packaged = packaged_questions()
    assert len(packaged) >= 8
    for request in packaged:
        assert request.audio is not None and 2 <= soundfile.info(request.folder / request.audio).duration <= 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": 0}, "repeats=0"),
        ({"concurrency": ()}, r"concurrency=\[\]"),
        ({"concurrency": (4, 0)}, r"concurrency=\[4, 0\]"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_counts_that_mean_nothing(
    pipeline: SpokenDialogPipeline, questions: list[SynthesisRequest], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        benchmark(pipeline, questions, **{**SMALL, **settings})


def test_questions_that_cannot_be_compared(pipeline: SpokenDialogPipeline) -> None:
    with pytest.raises(InputError, match="no question"):
        benchmark(pipeline, [])
    with pytest.raises(InputError, match="typed: only recordings"):
        benchmark(pipeline, [SynthesisRequest("typed", text="hello")])


def test_the_order_alternates(pipeline: SpokenDialogPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from usdm.benchmark import answers as measured

    asked: list[str] = []
    answer = measured.procedures(pipeline, 0)["whole"]

    def recorded(name: str) -> measured.Procedure:
        return lambda question: asked.append(name) or answer(question)  # type: ignore[func-returns-value]

    monkeypatch.setattr(measured, "procedures", lambda *_: {name: recorded(name) for name in ("reference", "b")})
    measure_answers(pipeline, [noise(0)], repeats=4, warmup=0)
    assert asked == ["reference", "b", "b", "reference"] * 2


def test_figures() -> None:
    faster = figure("time", "s", [4.0, 6.0, 8.0], [2.0, 2.0, 2.0])
    assert (faster.reference, faster.ours, faster.ratio, faster.pairs) == (6.0, 2.0, 3.0, 3)
    assert faster.low == 2.0 and faster.high == 4.0
    more = figure("rate", "1/s", [2.0], [8.0], more_is_better=True)
    assert (more.ratio, more.low, more.high) == (4.0, None, None)
    with pytest.raises(ValueError, match="no pairs"):
        figure("time", "s", [1.0, 2.0], [1.0])
    low, high = interval(np.random.default_rng(0).normal(5.0, 1.0, 400))
    assert low is not None and high is not None and 4.75 < low < 5.0 < high < 5.25


def test_the_server_gives_everybody_their_own_reply(pipeline: SpokenDialogPipeline) -> None:
    waveforms = [noise(seed, 0.6 + 0.2 * seed) for seed in range(5)]
    alone = [pipeline.respond(waveform.samples, 16_000).waveform for waveform in waveforms]
    with BatchServer(pipeline, capacity=2) as server, ThreadPoolExecutor(5) as pool:
        together = list(pool.map(server.respond, waveforms))
    for one, other in zip(alone, together, strict=True):
        assert one is not None and one.shape == other.shape


def test_a_server_whose_work_fails_tells_all(pipeline: SpokenDialogPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with BatchServer(pipeline, capacity=2) as server, ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(server, "_round", lambda first: 1 / 0)
        waiting = [pool.submit(server.respond, noise(seed)) for seed in range(3)]
        for future in waiting:
            with pytest.raises(ZeroDivisionError):
                future.result(timeout=20)
        with pytest.raises(ZeroDivisionError):
            server.respond(noise(0))


def test_weight_bytes(pipeline: SpokenDialogPipeline) -> None:
    model = pipeline.parts.llm
    every = sum(weight.nbytes for weight in model.parameters())
    embedding: Any = model.get_input_embeddings()
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert weight_bytes(model) == every - embedding.weight.nbytes + buffers


def test_the_decode_loop_is_measured_on_all_three_ways(pipeline: SpokenDialogPipeline) -> None:
    speed = measure_decoding(pipeline.parts, context=10, tokens=4, repeats=1)
    assert min(speed.chain, speed.forward, speed.reference, speed.bandwidth) > 0
    assert speed.share_of_forward == pytest.approx(speed.chain / speed.forward)


def test_memory() -> None:
    with peak_memory(CPU) as small:
        pass
    with peak_memory(CPU) as large:
        torch.ones(64 << 20, dtype=torch.uint8).sum()
    assert small.cuda is None and (small.resident is None) == (large.resident is None)
    if small.resident is not None and large.resident is not None:
        assert large.resident - small.resident > 32 << 20
    assert memory_bandwidth(CPU) > 1e8


def test_random_weights_reply_at_the_length_that_is_set() -> None:
    one, same, other = (random_pipeline(**RANDOM, seed=seed) for seed in (0, 0, 1))
    replies = [system.respond(noise(0).samples, 16_000) for system in (one, same, other)]
    for reply in replies:
        assert reply.agent_units is not None and len(reply.agent_units) == 25
        assert reply.truncated == ("transcribe", "respond", "speak")  # nothing ended before its limit
        assert reply.waveform is not None and torch.isfinite(reply.waveform).all()
    assert replies[0].user_text == replies[1].user_text != replies[2].user_text
    reference = reference_respond(one.parts, noise(0), sampling=one.settings.sampling)
    assert reference.agent_units is not None and replies[0].agent_units is not None
    assert reference.agent_units.tolist() == replies[0].agent_units.tolist()
    assert reference.user_text == replies[0].user_text


def test_random_weights_are_the_same_for_the_same_seed() -> None:
    """All of them are drawn: none is whatever the memory held before."""
    one, other = (random_pipeline(**RANDOM, seed=3).parts for _ in range(2))
    for part in ("units", "llm", "speech"):
        state, expected = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        for name, value in state.items():
            assert torch.equal(value, expected[name]), f"{part}: {name}"


def test_random_weights_are_in_their_precision() -> None:
    options = LoadOptions(dtype=torch.bfloat16, decoder_dtype=torch.bfloat16)
    parts = random_pipeline(**RANDOM, options=options).parts
    assert {weight.dtype for weight in parts.llm.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in parts.flow_matching.decoder.parameters()} == {torch.bfloat16}
    modules = (parts.units, parts.llm, parts.flow_matching.decoder)
    assert all(torch.isfinite(tensor).all() for module in modules for tensor in module.state_dict().values())
    rotary: Any = parts.llm.base_model.rotary_emb
    expected = 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
    assert torch.allclose(rotary.inv_freq, expected)  # no weight: it must not be drawn or left unset


def test_a_random_bigvgan() -> None:
    config = {
        "resblock": "1",
        "upsample_rates": [4, 4, 2, 2, 2, 2],
        "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4],
        "upsample_initial_channel": 64,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
        "activation": "snakebeta",
        "snake_logscale": True,
        "num_mels": 80,
    }
    parts = random_pipeline(**{**RANDOM, "vocoder": config}).parts
    assert parts.flow_matching.vocoder(torch.zeros(1, 80, 5)).shape == (1, 5 * 256)


def test_random_weights_that_cannot_be() -> None:
    with pytest.raises(InputError, match="text_size=100"):
        random_pipeline(**{**RANDOM, "text_size": 100})
    with pytest.raises(InputError, match="neither a BigVGAN configuration"):
        random_pipeline(**{**RANDOM, "vocoder": {"width": 3}})
    with pytest.raises(InputError, match="quantization=int8"):
        random_pipeline(**RANDOM, options=LoadOptions(quantization="int8"))
    with pytest.raises(InputError, match="number of units"):
        random_pipeline(**{**RANDOM, "units": replace(RANDOM["units"], num_units=41)})


def test_the_random_tokenizer_has_the_published_shape() -> None:
    tokenizer = random_tokenizer(32_000, TemplateSettings())
    assert len(tokenizer) == 32_000
    ids = tokenizer("### User\nhello, you").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == "### User\nhello, you"
    preamble = tokenizer(TemplateSettings().preamble).input_ids
    assert len(preamble) < 60  # words, as a trained tokenizer has them, and not letters
    assert len(random_tokenizer(400, SHORT_TEMPLATE)) == 400


def noise(seed: int, seconds: float = 1.0) -> Waveform:
    return Waveform(torch.rand(int(seconds * 16_000), generator=torch.Generator().manual_seed(seed)) - 0.5, 16_000)
