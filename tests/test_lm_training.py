"""Training of the language model: packed rows, exact resume, what is logged and saved; and its tokenizer."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lm_models import quick_runs  # noqa: F401 (used by itself)
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, modeling_flash_attention_utils

from usdm.cli.main import main
from usdm.cli.training import ROOM_TO_LOAD, loading_device
from usdm.data.collation import collate_rows, flatten_rows
from usdm.data.curriculum import Blocking, Curriculum, Spiral
from usdm.data.mixture import MixtureMember
from usdm.data.packing import PackedRow, PackedRows, build_row
from usdm.data.sequences import KIND_INDEX, TrainingSequence
from usdm.data.speech_text import SpeechTextSequences
from usdm.data.unit_corpus import SCHEMA, UnitCorpus, UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.interleave import PatternInterleaving
from usdm.lm import build_model, count_parameters, load_model
from usdm.lm.attention_kernels import PLAIN, SKIPPING, fastest_kernel, packed_error, why_not
from usdm.tokens import (
    IGNORED,
    DialogTemplate,
    SpeechTextVocabulary,
    TemplateSettings,
    extend_tokenizer,
    read_tokenizer,
)
from usdm.training.curves import draw_curves
from usdm.training.language_model import finetune, pretrain
from usdm.training.lm_attention import PACKED, check_packing, use_packed_attention
from usdm.training.lm_settings import LanguageModelSettings
from usdm.training.lm_trainer import TrainingLog, newest_checkpoint
from usdm.training.perplexity import TYPES, evaluate_pretraining
from usdm.training.subject_losses import subject_losses
from usdm.training.tokenizer import save_tokenizer, train_tokenizer
from usdm.types import InputError

SOURCE = UnitSource(num_units=20, unit_rate=25, centroid_hash="0123456789abcdef")
WORDS = ["i'd", "like", "a", "table", "for", "two", "at", "the", "new", "thai", "place", "please"]
TEMPLATE = TemplateSettings(preamble="", user_heading="u\n", agent_heading="a\n")
SETTINGS = LanguageModelSettings(
    steps=6,
    learning_rate=3e-3,
    warmup_steps=2,
    max_length=96,
    batch_size=2,
    log_every=1,
    validate_every=3,
    validation_rows=4,
    save_every=2,
    report_to=(),
    threads=1,
)


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 330)
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, SOURCE.num_units))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Units that follow from the words, so that there is something to learn."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.parquet"
    rng = np.random.default_rng(0)
    with UnitCorpusWriter(path, SOURCE, rows_per_group=16) as writer:
        for i in range(160):
            spoken = rng.integers(0, len(WORDS), rng.integers(3, 6))
            units = np.repeat(spoken, 2).astype(np.uint16)
            text = " ".join(WORDS[j] for j in spoken)
            role, split = ("user", "agent")[i % 2], ("train", "dev")[i >= 128]
            words = tuple(WORDS[j] for j in spoken)
            ends = np.arange(2, 2 * len(spoken) + 1, 2, dtype=np.int32)
            writer.write(UnitUtterance(f"u{i}", "s", role, f"d{i // 4}", i % 4, split, text + ".", units, words, ends))
    return path


def tiny_model(vocabulary: SpeechTextVocabulary, model_type: str = "mistral") -> PreTrainedModel:
    torch.manual_seed(0)
    return build_model(
        vocabulary,
        model_type,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        **({} if model_type == "gpt_neox" else {"num_key_value_heads": 1}),
    )


@contextmanager
def stopped_after(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trainings end there without a warning."""
    logged = TrainingLog.on_log

    def on_log(self: TrainingLog, args: Any, state: Any, control: Any, **found: Any) -> None:
        logged(self, args, state, control, **found)
        if state.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "on_log", on_log)
        yield


def read_log(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


# Packed rows


@pytest.fixture
def flash_kernel(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Flash attention, which no CPU has, as far as `transformers` goes: its kernels are written out here.

    Where sequences begin and end, as the kernel for several of them is told: `cu_seqlens`, once for each layer.
    """
    told: list[list[int]] = []

    def whole(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False) -> Tensor:
        """(B, L, H, D), each row a sequence."""
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        attended = functional.scaled_dot_product_attention(
            q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True
        )
        return attended.transpose(1, 2)

    def several(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float | None = None,
        causal: bool = False,
    ) -> Tensor:
        """(L, H, D), the sequences behind each other."""
        told.append(cu_seqlens_q.tolist())
        parts = [each.tensor_split(cu_seqlens_q[1:-1].tolist()) for each in (q, k, v)]
        attended = [
            whole(*(part[None] for part in sequence), softmax_scale, causal)[0] for sequence in zip(*parts, strict=True)
        ]
        return torch.cat(attended)

    kernels = (whole, several, None, None, None)
    monkeypatch.setattr(modeling_flash_attention_utils, "_lazy_imports", lambda *_, **__: kernels)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    return told


def packed_sequences(vocabulary: SpeechTextVocabulary) -> tuple[list[TrainingSequence], list[PackedRow]]:
    """Three sequences of 52 ids together, and two rows of 60 with all of them."""
    rng = np.random.default_rng(0)
    sequences = []
    for length in (17, 5, 30):
        ids = rng.integers(0, len(vocabulary), length).astype(np.int32)
        labels = ids.copy()
        labels[0] = -100
        sequences.append(TrainingSequence(ids, labels, np.zeros(length, np.int8)))
    return sequences, [build_row(sequences, 60, vocabulary.pad_id), build_row(sequences[::-1], 60, 0)]


@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")  # of transformers
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")  # which is meant
@pytest.mark.parametrize("attention", ["sdpa", "eager", PACKED, "flex_attention", "flash_attention_2"])
@pytest.mark.parametrize("model_type", ["mistral", "llama", "qwen2", "gpt_neox"])
def test_sequences_in_a_row_do_not_see_each_other(
    vocabulary: SpeechTextVocabulary, model_type: str, attention: str, flash_kernel: list[list[int]]
) -> None:
    model = tiny_model(vocabulary, model_type)
    model.config._attn_implementation = attention
    sequences, rows = packed_sequences(vocabulary)
    batch = (flatten_rows if "flash" in attention else collate_rows)(rows)
    labels = batch.pop("labels").view(2, -1)
    assert set(batch) == {"input_ids", "position_ids"}
    reference = tiny_model(vocabulary, model_type)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # flex attention, compiled, takes a minute
        packed = model(**batch, use_cache=False).logits.view(2, 60, -1)
        start = 0
        for each in sequences:
            alone = reference(torch.from_numpy(each.input_ids).long()[None], use_cache=False).logits[0]
            torch.testing.assert_close(packed[0, start : start + len(alone)], alone, atol=2e-6, rtol=1e-5)
            start += len(alone)
        alone = reference(torch.from_numpy(sequences[-1].input_ids).long()[None], use_cache=False).logits[0]
        torch.testing.assert_close(packed[1, : len(alone)], alone, atol=2e-6, rtol=1e-5)
    assert labels[0, 52:].eq(-100).all()
    bounds = [0, 17, 22, 52, 60, 60 + 30, 60 + 35, 60 + 52, 120]
    assert flash_kernel == ([bounds] * 2 if "flash" in attention else [])


def test_several_rows_under_flash_attention_are_trained_as_one(
    vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path, flash_kernel: list[list[int]]
) -> None:
    settings = dataclasses.replace(SETTINGS, steps=2, batch_size=3, save_every=2, validate_every=2)
    runs = []
    for attention in ("eager", "flash_attention_2"):
        model = tiny_model(vocabulary)
        model.config._attn_implementation = attention
        figures = pretrain(model, vocabulary, [corpus], tmp_path / attention, settings)
        runs.append((figures, [row.get("loss") for row in read_log(tmp_path / attention)]))
    assert runs[0][0] == pytest.approx(runs[1][0], abs=1e-5)
    assert runs[0][1][:2] == pytest.approx(runs[1][1][:2], abs=1e-5)
    assert {bounds[-1] for bounds in flash_kernel} >= {3 * 96}
    assert all({96, 192} <= {*bounds} for bounds in flash_kernel if bounds[-1] == 3 * 96)
    # What it would be otherwise:
    with pytest.raises(InputError, match=r"mistral with attention 'flash_attention_2' does not keep sequences apart"):
        check_packing(model, collate_rows, torch.device("cpu"))


def test_a_model_that_cannot_be_packed_has_rows_of_one_sequence(
    vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    xglm = {"d_model": 16, "num_layers": 2, "attention_heads": 2, "ffn_dim": 32, "max_position_embeddings": 96}
    for model_type, settings in (
        ("bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),  # tells positions by distance, and heeds no others
        ("mamba", {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}),  # its state goes on
        ("xglm", {**xglm, "dropout": 0.0, "attention_dropout": 0.0}),  # masks no others
    ):
        model = build_model(vocabulary, model_type, **settings)
        few = dataclasses.replace(SETTINGS, steps=1, validate_every=None, save_every=1, log_every=1, learning_rate=0.0)
        figures = pretrain(model, vocabulary, [corpus], tmp_path / model_type, few)
        assert f"{model_type} does not keep sequences apart" in caplog.text
        source = SpeechTextSequences(UnitCorpus(corpus), vocabulary, 96, split="dev")
        total = scored = 0.0
        for sequence in islice(source.sequences(0, source.blocks(0)[0], 0), few.validation_rows):
            ids = torch.from_numpy(sequence.input_ids).long()[None]
            loss = model(input_ids=ids, labels=torch.from_numpy(sequence.labels).long()[None], use_cache=False).loss
            count = int((sequence.labels[1:] != IGNORED).sum())
            total, scored = total + loss.item() * count, scored + count
        assert figures["loss"] == pytest.approx(total / scored, abs=1e-5)


def test_gradients_through_packed_attention_are_those_through_the_mask(vocabulary: SpeechTextVocabulary) -> None:
    ids = np.random.default_rng(0).integers(0, len(vocabulary), 40).astype(np.int32)
    sequences = [TrainingSequence(part, part.copy(), np.zeros(len(part), np.int8)) for part in (ids[:11], ids[11:])]
    batch = collate_rows([build_row(sequences, 48, vocabulary.pad_id)])
    gradients = []
    for attention in ("sdpa", PACKED):
        model = tiny_model(vocabulary)
        model.set_attn_implementation(attention)
        model(**batch, use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_packed_attention_is_for_models_that_see_the_whole_row(vocabulary: SpeechTextVocabulary) -> None:
    for window, attention in ((None, PACKED), (96, PACKED), (95, "sdpa")):
        model = tiny_model(vocabulary)
        model.config.sliding_window = window
        use_packed_attention(model, 96, torch.float32)
        kernels = SKIPPING if torch.cuda.is_available() and attention == PACKED else ()
        assert model.config._attn_implementation in (attention if not kernels else PLAIN, *kernels)


def test_a_gpu_trains_with_the_fastest_kernel_that_gives_the_same(
    vocabulary: SpeechTextVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, given = torch.device("cpu"), {"flash_attention_2": 0.4, "flex_attention": 0.01}

    def error(kernel: str, device: torch.device, dtype: torch.dtype, head_size: int) -> float:
        if kernel not in given:
            raise ImportError("the package doesn't seem to be installed")
        return given[kernel]

    assert why_not.__wrapped__("sdpa", cpu, torch.bfloat16, 64) is None
    assert "installed" in why_not.__wrapped__("flash_attention_3", cpu, torch.bfloat16, 64)
    with torch.compiler.set_stance("force_eager"):
        assert packed_error("flex_attention", cpu, torch.float32, 64) < 1e-4
    monkeypatch.setattr("usdm.lm.attention_kernels.packed_error", error)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    model = tiny_model(vocabulary)
    why_not.cache_clear()
    use_packed_attention(model, 96, torch.bfloat16)
    assert model.config._attn_implementation == "flex_attention"
    given["flex_attention"] = 0.5
    why_not.cache_clear()
    assert fastest_kernel(cpu, torch.bfloat16, 64) == PLAIN
    assert why_not("flex_attention", cpu, torch.bfloat16, 64) == "its logits are off by 50%"
    why_not.cache_clear()


def test_each_process_loads_to_its_own_gpu_where_there_is_room(
    vocabulary: SpeechTextVocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(vocabulary).save_pretrained(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert loading_device(tmp_path) == "cpu" or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    room = ROOM_TO_LOAD * count_parameters(tmp_path)
    for free, device in ((room, "cuda:3"), (room - 1, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda rank, free=free: (free, free))
        assert loading_device(tmp_path) == device
    monkeypatch.delenv("LOCAL_RANK")
    assert loading_device(tmp_path) == "cpu"


def test_a_log_without_gradient_norms(tmp_path: Path) -> None:
    """Not every DeepSpeed engine tells them."""
    log = TrainingLog(tmp_path, 0, 10)
    arguments, state = SimpleNamespace(), SimpleNamespace(global_step=1, max_steps=2)
    log.on_train_begin(arguments, state, None)
    log.on_log(arguments, state, None, logs={"loss": 1.5, "learning_rate": 0.1})
    log.on_train_end(arguments, state, None)
    (row,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert row["gradient_norm"] is None and row["loss"] == 1.5
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")


# Runs


@pytest.fixture(scope="module")
def pretrained(
    tmp_path_factory: pytest.TempPathFactory, vocabulary: SpeechTextVocabulary, corpus: Path
) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("pretrain")
    figures = pretrain(tiny_model(vocabulary), vocabulary, [corpus], folder, SETTINGS, segment_units=[(0, 4), (3, 500)])
    return folder, figures


def test_a_run_leaves_a_log_curves_and_a_complete_model(
    pretrained: tuple[Path, dict[str, float]], vocabulary: SpeechTextVocabulary
) -> None:
    folder, figures = pretrained
    log = read_log(folder)
    assert [row["step"] for row in log if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in log if "validation/loss" in row] == [3, 6]
    assert log[-1]["validation/loss"] == figures["loss"]
    assert {"loss_units_to_text", "loss_text_to_units", "loss_units", "loss_text"} < set(figures)
    # Uniform guessing at the start.
    assert log[0]["loss"] == pytest.approx(math.log(len(vocabulary)), abs=0.1)
    assert (folder / "curves.png").stat().st_size > 1000
    model = load_model(folder / "model")
    assert model.config._attn_implementation == "sdpa"
    assert model.config.use_cache and model.generation_config.use_cache
    assert model.num_parameters() == tiny_model(vocabulary).num_parameters()
    assert SpeechTextVocabulary.from_pretrained(folder / "model").layout == vocabulary.layout
    assert UnitSource.load(folder / "model") == SOURCE
    training = json.loads((folder / "model" / "training.json").read_text())
    assert training["settings"]["steps"] == 6 and training["data"]["segment_units"] == [[0, 4], [3, 500]]
    assert training["perplexity"]["all"] == pytest.approx(math.exp(figures["loss"]))


def test_validation_by_kind_adds_up_to_the_models_own_loss(
    pretrained: tuple[Path, dict[str, float]], vocabulary: SpeechTextVocabulary, corpus: Path
) -> None:
    folder, figures = pretrained
    source = SpeechTextSequences(UnitCorpus(corpus), vocabulary, 96, split="dev")
    rows = list(islice(PackedRows(source, 96, vocabulary.pad_id, epochs=1), 4))
    with torch.no_grad():
        loss = load_model(folder / "model")(**collate_rows(rows), use_cache=False).loss
    assert figures["loss"] == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.slow  # the ordinary tests kill every stage in test_torture.py
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(
    pretrained: tuple[Path, dict[str, float]], vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path
) -> None:
    whole, figures = pretrained
    vocabulary.save_pretrained(tmp_path)
    program = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_lm_training as here
        from transformers import TrainerCallback
        from usdm.training import lm_trainer
        original = lm_trainer.TrainingLog.on_log
        def on_log(self, args, state, control, **found):
            original(self, args, state, control, **found)
            if state.global_step == 5:
                os.kill(os.getpid(), signal.SIGKILL)
        lm_trainer.TrainingLog.on_log = on_log
        vocabulary = here.SpeechTextVocabulary.from_pretrained({str(tmp_path)!r})
        model = here.tiny_model(vocabulary)
        here.pretrain(model, vocabulary, [{str(corpus)!r}], {str(tmp_path / "run")!r}, here.SETTINGS,
                      segment_units=[(0, 4), (3, 500)])
    """)
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=os.getcwd())
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = tmp_path / "run"
    assert [row["step"] for row in read_log(run) if "loss" in row] == [1, 2, 3, 4, 5]
    # As if the kill had come while the newest checkpoint was being written: the one before it counts.
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    (run / "checkpoint-4" / "trainer_state.json").unlink()
    assert newest_checkpoint(run) == (run / "checkpoint-2", 2)
    resumed = pretrain(tiny_model(vocabulary), vocabulary, [corpus], run, SETTINGS, segment_units=[(0, 4), (3, 500)])
    assert resumed == figures
    assert read_log(run) == read_log(whole)
    ours, theirs = load_model(run / "model").state_dict(), load_model(whole / "model").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_finished_run_is_not_trained_again_and_other_settings_are_refused(
    pretrained: tuple[Path, dict[str, float]], vocabulary: SpeechTextVocabulary, corpus: Path
) -> None:
    folder, figures = pretrained
    arguments = (vocabulary, [corpus], folder)
    curriculum = [(0, 4), (3, 500)]
    again = pretrain(tiny_model(vocabulary), *arguments, SETTINGS, segment_units=curriculum)
    assert again == figures
    assert [row["step"] for row in read_log(folder) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(
        InputError, match=r'made with other settings.*\n  interleaving.pattern: "unified" then, "continuation" now'
    ):
        pretrain(
            tiny_model(vocabulary),
            *arguments,
            SETTINGS,
            segment_units=curriculum,
            interleaving=PatternInterleaving("continuation"),
        )
    hotter = dataclasses.replace(SETTINGS, learning_rate=1.0, log_every=2, save_every=2, validate_every=None)
    with pytest.raises(InputError, match=r"other settings or inputs:\n  loop.learning_rate: 0.003 then, 1.0 now\ngive"):
        pretrain(tiny_model(vocabulary), *arguments, hotter, segment_units=curriculum)


def test_another_corpus_or_model_is_another_run(
    vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it once was, the old model came back, and nothing was said."""
    own, text, run = tmp_path / "corpus.parquet", tmp_path / "text.txt", tmp_path / "run"
    shutil.copy(corpus, own)
    text.write_text("a table for two\n" * 40)

    def train(folder: Path, moved: float = 0.0, **options: Any) -> dict[str, float]:
        model = tiny_model(vocabulary)
        model.get_input_embeddings().weight.data += moved
        mixture = [MixtureMember(text=[text], weight=1.0)]
        return pretrain(model, vocabulary, [own], folder, SETTINGS, mixture=mixture, **options)

    with pytest.raises(KeyboardInterrupt), stopped_after(3, monkeypatch):
        train(run)
    with pytest.raises(InputError, match=r'init_from.weights: "\w+" then, "\w+" now\n'):
        train(run, moved=0.01)
    own.rename(tmp_path / "moved.parquet")
    shutil.copy(tmp_path / "moved.parquet", own)
    train(run)  # the contents count, and not where or when they were written
    text.write_text("please\n" * 40)
    with pytest.raises(InputError, match=r"mixture.0.text: \['.*text.txt'\] \(content \w+\) then, "):
        train(run)
    rows = UnitCorpus(own).read(UnitCorpus(corpus).groups[2:], SCHEMA.names)
    pq.write_table(rows.replace_schema_metadata(pq.read_schema(corpus).metadata), own)
    with pytest.raises(InputError, match=r"\n  corpora: .*corpus.parquet'\] .* then, .* now\n  mixture.0.text: "):
        train(run)
    assert train(run, moved=0.01, overwrite=True) == train(tmp_path / "new", moved=0.01)
    assert read_log(run) == read_log(tmp_path / "new")


def test_accumulated_rows_give_the_loss_and_weights_of_one_batch(
    vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path
) -> None:
    losses, weights = [], []
    for rows, accumulation in ((4, 1), (1, 4)):
        settings = dataclasses.replace(
            SETTINGS,
            steps=3,
            batch_size=rows,
            gradient_accumulation_steps=accumulation,
            validate_every=None,
            save_every=3,
        )
        folder, model = tmp_path / str(rows), tiny_model(vocabulary)
        pretrain(model, vocabulary, [corpus], folder, settings)
        losses.append([row["loss"] for row in read_log(folder) if "loss" in row])
        weights.append(model.get_input_embeddings().weight.detach().clone())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=0)


def test_an_adapter_trains_few_weights_resumes_and_is_merged(
    vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(
        r=2, target_modules="all-linear", modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"
    )

    def run(name: str) -> dict[str, float]:
        return pretrain(tiny_model(vocabulary), vocabulary, [corpus], tmp_path / name, SETTINGS, adapter=adapter)

    untrained, figures = tiny_model(vocabulary).state_dict(), run("whole")
    with pytest.raises(KeyboardInterrupt), stopped_after(5, monkeypatch):
        run("resumed")
    assert run("resumed") == figures
    models = [load_model(tmp_path / name / "model") for name in ("whole", "resumed")]
    whole, resumed = (model.state_dict() for model in models)
    assert whole.keys() == untrained.keys() == resumed.keys()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-7, rtol=0)
        changed = not torch.equal(value, untrained[name])
        assert changed == ("norm" not in name), name
    stored = sum(path.stat().st_size for path in (tmp_path / "whole" / "checkpoint-6").glob("adapter_*.safetensors"))
    assert stored > 0 and not (tmp_path / "whole" / "checkpoint-6" / "model.safetensors").exists()


def test_fine_tuning_learns_stores_half_precision_and_keeps_the_template(
    vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(
        SETTINGS,
        steps=30,
        learning_rate=2e-2,
        schedule="constant",
        gradient_checkpointing=True,
        log_every=10,
        validate_every=None,
        save_every=30,
    )
    figures = finetune(
        tiny_model(vocabulary),
        vocabulary,
        [corpus],
        tmp_path,
        settings,
        template=TEMPLATE,
        history_turns=1,
        layouts={"multi_step": 0.7, "typed": 0.3},
        unit_source=SOURCE,
        dtype=torch.float16,
    )
    assert set(figures) == {"loss", "loss_transcript", "loss_agent_text", "loss_agent_units"}
    losses = [row["loss"] for row in read_log(tmp_path) if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    assert {row["learning_rate"] for row in read_log(tmp_path) if "loss" in row} == {2e-2}
    folder = tmp_path / "model"
    assert TemplateSettings.load(folder) == TEMPLATE
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    vocabulary = SpeechTextVocabulary.from_pretrained(folder)
    assert DialogTemplate(vocabulary, TEMPLATE).stop_id("transcribe") == vocabulary.encode_text("\n")[-1]
    assert load_model(folder).dtype == torch.float32  # half precision is for the disk


def test_other_units_than_the_models_are_refused(
    vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path
) -> None:
    other = UnitSource(20, 50, SOURCE.centroid_hash)
    with pytest.raises(InputError, match="the pretrained model and .* hold different units: unit_rate 50 against 25"):
        finetune(tiny_model(vocabulary), vocabulary, [corpus], tmp_path, SETTINGS, unit_source=other)


@pytest.mark.parametrize("bf16", [False, True])
def test_what_is_trained_is_float32(vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path, bf16: bool) -> None:
    """In bfloat16 a step of 2e-5 is less than half the way from a weight of 0.02 to its neighbour."""
    model = tiny_model(vocabulary).to(torch.bfloat16)
    head: Any = model.get_output_embeddings()
    head.weight.data.fill_(0.02)
    start = head.weight.detach().float().clone()
    settings = dataclasses.replace(
        SETTINGS, learning_rate=2e-5, warmup_steps=0, schedule="constant", validate_every=None, bf16=bf16
    )
    pretrain(model, vocabulary, [corpus], tmp_path, settings)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    moved = (head.weight.detach() - start).abs()
    assert moved.median() > 2e-5 and moved.max() < 1.3e-4
    # The file has what the model came in; the checkpoint what goes on to be trained.
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    checkpoint = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    assert torch.equal(checkpoint["lm_head.weight"], head.weight)


def test_an_adapter_is_float32_beside_weights_that_stay_as_they_are_stored(
    vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(
        r=2, target_modules="all-linear", modules_to_save=["input_embeddings"], task_type="CAUSAL_LM"
    )
    untrained = tiny_model(vocabulary).to(torch.bfloat16).state_dict()
    for bf16 in (False, True):
        model = tiny_model(vocabulary).to(torch.bfloat16)
        settings = dataclasses.replace(SETTINGS, bf16=bf16, validate_every=None)
        pretrain(model, vocabulary, [corpus], tmp_path / str(bf16), settings, adapter=adapter, dtype=torch.float32)
        trained = {weight.dtype for weight in model.parameters() if weight.requires_grad}
        frozen = {weight.dtype for weight in model.parameters() if not weight.requires_grad}
        assert trained == {torch.float32}
        assert frozen == ({torch.bfloat16} if bf16 else {torch.float32})
        merged = load_model(tmp_path / str(bf16) / "model").state_dict()
        name = "model.layers.0.self_attn.q_proj.weight"
        update = merged[name] - untrained[name].float()
        assert 0 < update.abs().max() < 0.05 and torch.linalg.matrix_rank(update, rtol=1e-3) <= 2  # not rounded


def test_a_loss_that_is_not_finite_ends_the_run(vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path) -> None:
    model = tiny_model(vocabulary)
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="the loss before step 1 is nan: lower the learning rate"):
        pretrain(model, vocabulary, [corpus], tmp_path, SETTINGS)


def test_saving_must_fall_on_logged_steps() -> None:
    with pytest.raises(InputError, match="save_every=25 is no multiple of log_every=10"):
        LanguageModelSettings(steps=100, save_every=25)


# Tokenizer


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = ["i'd like a table, please! don't wait.", "a table at 17:30? it's fine.\nthe table is set."] * 20
    save_tokenizer(train_tokenizer(texts, 360), folder)
    return folder


def test_tokenizer_pieces_keep_to_words_digits_and_punctuation(tokenizer_folder: Path) -> None:
    tokenizer = read_tokenizer(tokenizer_folder)
    assert len(tokenizer) <= 360
    learnt = [piece for piece, id_ in tokenizer.get_vocab().items() if id_ >= 259]
    assert "▁table" in learnt and "▁don't" in learnt
    for piece in learnt:
        body = piece.removeprefix("▁")
        assert len(body) <= 1 or body.replace("'", "a").isalpha(), piece
    assert (
        tokenizer.tokenize("17:30,") == ["▁", "1", "7", ":", "3", "0", ","] or tokenizer.tokenize("17:30,")[-1] == ","
    )


def test_tokenizer_writes_everything_and_newline_stands_alone(tokenizer_folder: Path) -> None:
    tokenizer = read_tokenizer(tokenizer_folder)
    vocabulary = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, 5))
    for text in ("i'd like 2 tables\nplease", "naïve 안녕 \t 🙂", "don't"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids[1:]) == text
    newline = vocabulary.encode_text("\n")
    assert newline[-1] == tokenizer.convert_tokens_to_ids("<0x0A>")
    template = DialogTemplate(vocabulary, TEMPLATE)
    assert template.stop_id("transcribe") == newline[-1]


def test_tokenizer_is_laid_out_as_the_published_base(tokenizer_folder: Path, compat_dir: Path) -> None:
    ours = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    theirs = json.loads((compat_dir / "text" / "base_tokenizer" / "tokenizer.json").read_text())
    for part in ("normalizer", "pre_tokenizer", "decoder", "added_tokens"):
        assert ours[part] == theirs[part], part
    assert ours["post_processor"]["single"] == theirs["post_processor"]["single"]
    ids = [sorted(each["model"]["vocab"], key=each["model"]["vocab"].get)[:259] for each in (ours, theirs)]
    assert ids[0] == ids[1]
    for each in (ours, theirs):
        del each["model"]["vocab"], each["model"]["merges"]
    assert ours["model"] == theirs["model"]


def test_a_tokenizer_without_room_is_refused() -> None:
    with pytest.raises(InputError, match="size=259"):
        train_tokenizer(["a"], 259)


# Perplexity by type


def test_perplexity_by_type_is_that_of_each_sequence_alone(vocabulary: SpeechTextVocabulary, corpus: Path) -> None:
    model = tiny_model(vocabulary).eval()
    asked: dict[str, Any] = {"max_length": 128, "segment_units": 4, "limit": 12}
    table = evaluate_pretraining(model, vocabulary, [corpus], batch_size=5, **asked)
    assert set(table.types) == set(TYPES)
    source = SpeechTextSequences(UnitCorpus([corpus]), vocabulary, 128, split="dev", seed=0, segment_units=4)
    sequences = list(islice((s for block in source.blocks(0) for s in source.sequences(0, block, 0)), 12))
    losses: list[float] = []
    for sequence in sequences:
        logits = model(torch.from_numpy(sequence.input_ids).long()[None]).logits[0, :-1]
        loss = functional.cross_entropy(
            logits, torch.from_numpy(sequence.labels).long()[1:], ignore_index=IGNORED, reduction="none"
        )
        wanted = sequence.kinds[1:] == KIND_INDEX["units_to_text"]
        losses += loss[torch.from_numpy(wanted & (sequence.labels[1:] != IGNORED))].tolist()
    found = table.types["units_to_text"]
    assert found.tokens == len(losses) and found.low <= found.perplexity <= found.high
    assert found.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    assert "| units_to_text" in table.to_markdown()
    with pytest.raises(InputError, match="split=test"):
        evaluate_pretraining(model, vocabulary, [corpus], split="test", **asked)


# Curricula


def test_a_curriculum_resumes_and_belongs_to_the_run(
    vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(f'{{"id": "d{i}", "label": "{"ab"[i % 2]}"}}\n' for i in range(40)))

    def run(name: str, order: Curriculum = Blocking(labels)) -> dict[str, float]:  # noqa: B008 (frozen)
        layouts = {"transcribe": 1.0, "typed": 1.0, "multi_step": 1.0}
        model = tiny_model(vocabulary)
        given = {"template": TEMPLATE, "layouts": layouts, "order": order}
        return finetune(model, vocabulary, [corpus], tmp_path / name, SETTINGS, **given)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt), stopped_after(3, monkeypatch):
        run("stopped")
    assert run("stopped") == whole and read_log(tmp_path / "stopped") == read_log(tmp_path / "whole")
    with pytest.raises(InputError, match="order.type"):
        run("whole", Spiral(labels))
    labels.write_text(labels.read_text().replace('"a"', '"c"'))
    with pytest.raises(InputError, match="order.labels"):
        run("whole")


def test_the_loss_by_subject_is_the_validation_loss_of_each(
    vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path
) -> None:
    model = tiny_model(vocabulary)
    settings = dataclasses.replace(SETTINGS, validation_rows=64)
    figures = finetune(model, vocabulary, [corpus], tmp_path / "run", settings, template=TEMPLATE)
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(f'{{"id": "d{i}", "label": "{"ab"[i % 2]}"}}\n' for i in range(40)))
    template = DialogTemplate(vocabulary, TEMPLATE)
    losses = subject_losses(model, template, [corpus], labels, max_length=SETTINGS.max_length)
    assert losses.subjects["all"].loss.mean == pytest.approx(figures["loss"], rel=1e-4)
    for kind in ("transcript", "agent_text", "agent_units"):
        assert losses.subjects["all"].kinds[kind].mean == pytest.approx(figures[f"loss_{kind}"], rel=1e-4)
    assert losses.subjects["a"].replies + losses.subjects["b"].replies == losses.subjects["all"].replies == 16
    assert losses.subjects["a"].loss.mean != losses.subjects["b"].loss.mean and "| a " in losses.to_markdown()
    labels.write_text('{"id": "d0", "label": "a"}\n{"id": "d1", "label": "b"}\n')
    with pytest.raises(InputError, match="no label for u"):
        subject_losses(model, template, [corpus], labels, max_length=SETTINGS.max_length)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("labels=nowhere.jsonl", "labels=nowhere.jsonl: no such file"),
        ("labels=few.jsonl", "few.jsonl: no label for u"),
        ("split=tset", "split=tset: no turn of agent answers another speaker in it"),
        ("limit=0", "limit=0: give 1 reply of a subject or more"),
    ],
)
def test_subjects_are_looked_at_before_anything_is_trained(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f'{{"id": "d{i}", "label": "{"ab"[i % 2]}"}}\n' for i in range(40)]
    Path("labels.jsonl").write_text("".join(rows))
    Path("few.jsonl").write_text("".join(rows[:2]))
    given = [f"corpora=[{corpus}]", "pretrained=nowhere", "labels=labels.jsonl", "output_dir=run"]
    assert main(["evaluate_finetuning", *given, setting]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": 0}, "steps=0: give 1 or more"),
        ({"log_every": 0}, "log_every=0: give 1 or more"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: give 0 or more"),
    ],
)
def test_settings_that_train_nothing_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        dataclasses.replace(SETTINGS, **wrong)


def test_a_corpus_without_dev_utterances_is_told(
    corpus: Path, vocabulary: SpeechTextVocabulary, tmp_path: Path
) -> None:
    units = UnitCorpus(corpus)
    with UnitCorpusWriter(tmp_path / "train.parquet", units.source) as writer:
        for utterance in units.utterances("train"):
            writer.write(utterance)
    with pytest.raises(InputError, match=r"split dev, for validation: the corpus leaves no sequence .*dev_share"):
        pretrain(tiny_model(vocabulary), vocabulary, [tmp_path / "train.parquet"], tmp_path / "out", SETTINGS)
