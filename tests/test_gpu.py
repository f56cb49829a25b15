"""What only a GPU runs: `make test-gpu`. All of it is skipped where there is none.

Numbers are held against the same arithmetic on the CPU in float32; tolerances stand where they are used.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_models import SIZES, random_ids, random_model
from test_lm_training import corpus  # noqa: F401
from test_streaming import RATE, bundle, noise  # noqa: F401
from tiny_models import llama_tokenizer
from torch import Tensor

from usdm.chain import LoadOptions, SpokenDialogPipeline
from usdm.cli.main import main
from usdm.decoder import UnitDecoder, UnitDecoderConfig
from usdm.decoder import alibi as alibi_module
from usdm.decoder.alibi import Alibi, flex_error, flex_serves
from usdm.lm import (
    ContinuousBatch,
    GenerateRequest,
    LanguageModel,
    StageProgram,
    TokenStream,
    build_model,
    cuda_graph,
    finish,
    load_model,
    play,
    warm_up,
)
from usdm.lm.attention_kernels import PLAIN, SKIPPING, TOLERANCE, fastest_kernel, packed_error, why_not
from usdm.lm.cuda_graph import CapturedStep, GraphForward
from usdm.lm.slots import SlotLayer, SlotMapping
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.types import Sampling, SpokenReply

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("default"),  # what a GPU's compilers warn of has not been seen yet
]
GPU = torch.device("cuda", 0)
BF16_ERROR = 0.03  # of logits, relative: 8 bits, through three layers
INT8_ERROR, INT4_ERROR = 0.05, 0.25  # relative, against bfloat16
MEL_DISTANCE = 0.1  # mean, of natural logarithms: less than a decibel
ONE_7B = 40 * 10**9  # bytes that `random_7b` and its benchmark want

Captures = list[Callable[[], Tensor]]


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(llama_tokenizer(), 50))


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[Captures]:
    """The graphs that are made, in order."""
    made: Captures = []

    class Counted(CapturedStep):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(cuda_graph, "CapturedStep", Counted)
    yield made


def writes(seed: int, vocabulary: SpeechTextVocabulary, length: int, num_beams: int = 1) -> StageProgram[list[int]]:
    """`length` ids in, a search of some, and a few more greedily."""
    ids = random_ids(seed, length, vocabulary)
    searched = yield GenerateRequest(
        "respond", ids, vocabulary.text_mask, (), Sampling(max_new_tokens=5, num_beams=num_beams)
    )
    after = random_ids(seed + 9, 2, vocabulary)
    written = yield GenerateRequest("speak", after, vocabulary.unit_mask, (), Sampling(max_new_tokens=9))
    return searched.ids + written.ids


def alone(model: LanguageModel, script: StageProgram[list[int]]) -> list[int]:
    return finish(play(script, TokenStream(model)))


# The language model


@pytest.mark.parametrize("kind", ["mistral", "window", "llama", "qwen2"])
def test_graphs_write_what_the_cpu_writes_token_for_token(
    vocabulary: SpeechTextVocabulary, kind: str, captures: Captures
) -> None:
    """In float32; a beam search between them once moved what graphs read."""
    model = random_model(vocabulary, kind)
    given = [(1, 40, 1), (2, 600, 4), (3, 30, 1), (4, 250, 1)]
    expected = [alone(model, writes(seed, vocabulary, length, beams)) for seed, length, beams in given]
    model.to(GPU)
    stream = TokenStream(model)
    assert isinstance(stream._forward, GraphForward)
    for (seed, length, beams), ids in zip(given, expected, strict=True):
        assert finish(play(writes(seed, vocabulary, length, beams), stream)) == ids
        stream.rollback(0)
    assert stream._forward._captured and len(captures) == 3  # of 256, 512 and 1024 positions
    assert len({each.graph.pool() for each in captures}) == 1


def test_graphs_give_what_the_same_step_gives_without_them(vocabulary: SpeechTextVocabulary) -> None:
    """To the bit, in bfloat16."""
    model = random_model(vocabulary, "mistral").to(GPU, torch.bfloat16)
    streams = [TokenStream(model), TokenStream(model)]
    streams[1]._forward._captured = False
    for stream in streams:
        stream.extend(random_ids(1, 40, vocabulary))
    for id_ in random_ids(2, 30, vocabulary):
        for stream in streams:
            stream.extend([id_])
        assert torch.equal(streams[0]._state, streams[1]._state)


def test_batches_of_unequal_lengths_write_what_each_writes_alone(vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, "mistral")
    lengths = {1: 3, 2: 250, 3: 900, 4: 30, 5: 254, 6: 7}
    expected = {seed: alone(model, writes(seed, vocabulary, k, 2)) for seed, k in lengths.items()}
    model.to(GPU)
    for capacity in (1, 2, 6):
        batch = ContinuousBatch(model, capacity)
        assert dict(batch.run((seed, writes(seed, vocabulary, k, 2)) for seed, k in lengths.items())) == expected


def test_threads_capture_at_once(vocabulary: SpeechTextVocabulary, captures: Captures) -> None:
    model = random_model(vocabulary, "mistral")
    seeds = range(8)
    expected = [alone(model, writes(seed, vocabulary, 200 + 90 * seed)) for seed in seeds]
    model.to(GPU)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda seed: alone(model, writes(seed, vocabulary, 200 + 90 * seed)), seeds))
    assert found == expected and len(captures) > 1
    assert all(forward._captured for forward in cuda_graph._idle(model)._forwards)


def test_the_first_reply_after_warming_up_captures_nothing(
    vocabulary: SpeechTextVocabulary, captures: Captures
) -> None:
    model = random_model(vocabulary, "mistral").to(GPU)
    warm_up(model)
    made = len(captures)
    alone(model, writes(1, vocabulary, 1000))
    assert made == 4 and len(captures) == made


def test_buffers_that_nobody_uses_are_bounded_and_go_with_the_model(vocabulary: SpeechTextVocabulary) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    model = build_model(vocabulary, **(SIZES | {"head_dim": 256, "max_position_embeddings": 16_384})).to(GPU)
    per_position = 2 * 4 * 256 * SIZES["num_key_value_heads"] * SIZES["num_hidden_layers"]  # bytes
    streams = [TokenStream(model) for _ in range(10)]
    for seed, stream in enumerate(streams):
        stream.extend(random_ids(seed, 4000, vocabulary))
    used = torch.cuda.memory_allocated()
    del streams, stream
    kept = sum(forward.cache.reserved for forward in cuda_graph._idle(model)._forwards)
    assert 0 < kept <= cuda_graph.IDLE_POSITIONS
    assert used - torch.cuda.memory_allocated() >= (10 * 4096 - cuda_graph.IDLE_POSITIONS) * per_position
    del model
    gc.collect()
    assert torch.cuda.memory_allocated() - before < 64 * 2**20  # libraries' workspaces


def test_slots_are_cut_before_they_are_gathered() -> None:
    layer = SlotLayer(16)
    layer.reserved = 8192
    rows = torch.tensor([5, 1, 9, 3], device=GPU)
    new = torch.randn(4, 8, 128, device=GPU)
    layer.aim = SlotMapping(rows, torch.tensor([600, 650, 699, 20], device=GPU), rows, 700)
    layer.write(new, new)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    keys, values = layer.write(new, new)
    assert torch.cuda.max_memory_allocated() - before < 2 * (keys.nbytes + values.nbytes)


def test_bfloat16_is_near_float32(vocabulary: SpeechTextVocabulary) -> None:
    model = build_model(vocabulary, **(SIZES | {"initializer_range": 0.1}))
    ids = torch.tensor([random_ids(0, 200, vocabulary)])
    with torch.inference_mode():
        expected = model(ids).logits
        model.to(GPU, torch.bfloat16)
        found = model(ids.to(GPU)).logits.float().cpu()
    assert (found - expected).norm() / expected.norm() < BF16_ERROR


@pytest.mark.parametrize(("quantization", "tolerance"), [("int8", INT8_ERROR), ("int4", INT4_ERROR)])
def test_quantised_weights_are_near_the_model(
    vocabulary: SpeechTextVocabulary, tmp_path: Path, quantization: Any, tolerance: float
) -> None:
    pytest.importorskip("bitsandbytes")
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512, "initializer_range": 0.05}
    build_model(vocabulary, **sizes).to(torch.bfloat16).save_pretrained(tmp_path)
    whole, small = load_model(tmp_path, GPU), load_model(tmp_path, GPU, quantization=quantization)
    ids = torch.tensor([random_ids(0, 60, vocabulary)], device=GPU)
    with torch.inference_mode():
        expected, found = whole(ids).logits.float(), small(ids).logits.float()
    assert 0 < (found - expected).norm() / expected.norm() < tolerance
    assert len(dict(ContinuousBatch(small, 2).run((k, writes(k, vocabulary, 9)) for k in range(3)))) == 3


def test_a_model_is_loaded_straight_to_its_gpu(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    random_model(vocabulary, "mistral").save_pretrained(tmp_path)
    model = load_model(tmp_path, "cuda:0")
    assert {weight.device for weight in model.parameters()} == {GPU}
    expected = alone(random_model(vocabulary, "mistral"), writes(1, vocabulary, 50))
    assert alone(model, writes(1, vocabulary, 50)) == expected


# Attention kernels


def test_flex_attention_serves_packed_rows_and_the_decoder() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert packed_error("flex_attention", GPU, dtype, 128) < TOLERANCE
        assert flex_error(GPU, dtype, 64) < alibi_module.TOLERANCE
    assert fastest_kernel(GPU, torch.bfloat16, 128) in SKIPPING and why_not(PLAIN, GPU, torch.bfloat16, 128) is None
    assert fastest_kernel(GPU, torch.bfloat16, 8) == PLAIN  # too small a head for the others


@pytest.mark.parametrize("lengths", [[900, 900], [900, 411, 900, 77]])
@pytest.mark.parametrize("serves", [True, False])
def test_long_replies_are_attended_over_without_a_whole_bias(
    lengths: list[int], serves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = torch.randn(3, len(lengths), 16, 901, 64, device=GPU, dtype=torch.bfloat16)
    alibi = Alibi(16, torch.tensor(lengths, device=GPU), 900)
    inside = (torch.arange(901, device=GPU) < alibi.ends[:, None])[:, None, :, None]
    with torch.inference_mode():
        monkeypatch.setattr(alibi_module, "BIAS_BYTES", 2**40)
        expected = (alibi.attend(*states) * inside).float()
        assert flex_serves(GPU, torch.bfloat16, 64)
        monkeypatch.setattr(alibi_module, "BIAS_BYTES", 4 * 2**20)
        if not serves:
            monkeypatch.setattr(alibi_module, "flex_serves", lambda *given: False)
        alibi = Alibi(16, torch.tensor(lengths, device=GPU), 900)
        alibi.attend(*states)  # is compiled
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        found = (alibi.attend(*states) * inside).float()
        peak = torch.cuda.max_memory_allocated() - before
    assert (found - expected).norm() / expected.norm() < alibi_module.TOLERANCE
    assert peak < 8 * states[0].nbytes + 6 * alibi_module.BIAS_BYTES  # the whole bias has 26 MB for each row


def test_training_under_autocast_keeps_one_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the 24 layers kept a copy, in another precision."""
    monkeypatch.setattr(alibi_module, "flex_serves", lambda *given: False)
    small = {"n_tokens": 12, "embedding_dim": 8, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 16}
    decoder = UnitDecoder(UnitDecoderConfig(**small, num_hidden_layers=8)).to(GPU).train()
    units, mel = torch.randint(12, (2, 1378), device=GPU), torch.randn(2, 80, 1378, device=GPU)
    lengths, time = torch.tensor([1378, 700], device=GPU), torch.rand(2, device=GPU)
    bias_bytes = 16 * 1379**2 * 2
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", torch.bfloat16):
        loss = decoder.loss(units, mel, lengths, time, torch.randn_like(mel), torch.zeros_like(mel[:, :1]))
    kept = torch.cuda.memory_allocated() - before
    loss.backward()
    assert torch.isfinite(loss) and kept < 8 * bias_bytes  # of which one for each of two lengths' padding


# Sound


def test_the_decoder_in_bfloat16_is_near_float32() -> None:
    torch.manual_seed(0)
    small = {"n_tokens": 12, "embedding_dim": 64, "hidden_size": 128, "intermediate_size": 256}
    decoder = UnitDecoder(UnitDecoderConfig(**small, num_attention_heads=2, num_hidden_layers=4)).eval()
    units = [torch.arange(length) % 12 for length in (400, 33, 150)]
    sampling: dict[str, Any] = {"steps": 8, "solver": "heun", "guidance": 1.0, "seeds": [1, 2, 3]}
    expected = decoder.generate_batch(units, **sampling)
    decoder.to(GPU, torch.bfloat16)
    for one, other in zip(decoder.generate_batch(units, **sampling), expected, strict=True):
        assert (one.float().cpu() - other).abs().mean() < MEL_DISTANCE


def test_a_stream_says_what_the_whole_reply_says(bundle: Path) -> None:  # noqa: F811
    """While decoder and language model work at once."""
    options = LoadOptions(device="cuda", dtype=torch.float32, decoder_dtype=torch.float32)
    on_gpu, on_cpu = (SpokenDialogPipeline.from_pretrained(bundle, each) for each in (options, LoadOptions("cpu")))
    expected, whole = on_cpu.respond(noise(), RATE), on_gpu.respond(noise(), RATE)
    *_, streamed = on_gpu.stream(noise(), RATE)
    assert isinstance(streamed, SpokenReply)
    for reply in (whole, streamed):
        assert (reply.user_text, reply.agent_text) == (expected.user_text, expected.agent_text)
        assert torch.equal(reply.agent_units, expected.agent_units)
        assert len(reply.waveform) == len(expected.waveform) and torch.isfinite(reply.waveform).all()


# Training


def test_fsdp2_on_one_gpu(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    """In bfloat16, by the kernel that the probe chooses; then on from its checkpoint."""
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import dataclasses, sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_lm_training import SETTINGS, SOURCE, WORDS
            from usdm.lm import build_model
            from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
            from usdm.training.language_model import pretrain
            from usdm.training.tokenizer import train_tokenizer

            tokenizer = extend_tokenizer(train_tokenizer([" ".join(WORDS)] * 4, 330), SOURCE.num_units)
            vocabulary = SpeechTextVocabulary.from_tokenizer(tokenizer)
            sizes = dict(hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
            model = build_model(vocabulary, num_key_value_heads=1, sliding_window=None, **sizes)
            settings = dataclasses.replace(SETTINGS, sharding="fsdp2", bf16=True)
            figures = pretrain(model, vocabulary, [{str(corpus)!r}], sys.argv[1], settings)
            assert 0 < figures["loss"] < 10, figures
            """
        )
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", str(script)]
    done = subprocess.run([*run, str(tmp_path / "run")], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


# Whole commands


def test_the_doctor_finds_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert torch.cuda.get_device_name(0) in told and "yes CUDA graphs" in told


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.mem_get_info()[0] < ONE_7B, reason=f"needs {ONE_7B / 1e9:.0f} GB free"
)
def test_the_published_shape_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [
        "limit=1",
        "repeats=1",
        "concurrency=[1,2]",
        "rounds=1",
        "batch=2",
        "batch_reference=1",
        "decoding_tokens=50",
    ]
    assert main(["benchmark", "model=random_7b", "device=cuda", f"output_dir={tmp_path / 'figures'}", *few]) == 0
    with capsys.disabled():
        print(capsys.readouterr().out)


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_plays_scripts(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:
    from usdm.lm.vllm import VllmBatch

    sizes = SIZES | {"hidden_size": 128, "head_dim": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    build_model(vocabulary, **sizes).save_pretrained(tmp_path)
    vocabulary.save_pretrained(tmp_path)
    batch = VllmBatch.from_pretrained(tmp_path, capacity=4, dtype="float32", gpu_memory_utilization=0.3)
    expected = {seed: alone(load_model(tmp_path), writes(seed, vocabulary, 30)) for seed in range(5)}
    assert dict(batch.run((seed, writes(seed, vocabulary, 30)) for seed in range(5))) == expected
