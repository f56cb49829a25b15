"""The benchmark of training: a synthetic corpus, the two ways of making rows, and FLOPs counted by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_lm_training import SETTINGS, SOURCE, WORDS, tiny_model
from transformers import MistralConfig

from usdm.data.unit_corpus import UnitCorpus
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.training import lm_benchmark
from usdm.training.data_benchmark import benchmark_data, write_synthetic_corpus
from usdm.training.lm_benchmark import benchmark_training
from usdm.training.lm_settings import LanguageModelSettings
from usdm.training.memory_benchmark import benchmark_memory
from usdm.training.plan import flops_per_token, plan_training
from usdm.training.tokenizer import train_tokenizer
from usdm.types import InputError


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 330)
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, SOURCE.num_units))


def test_a_synthetic_corpus_is_a_unit_corpus_of_its_size(tmp_path: Path) -> None:
    write_synthetic_corpus(tmp_path / "a.parquet", 200_000, 50)
    utterances = list(UnitCorpus(tmp_path / "a.parquet").utterances())
    assert sum(len(each.units) for each in utterances) == pytest.approx(200_000, rel=0.05)
    assert {each.split for each in utterances} == {"train", "dev"}
    for each in utterances:
        assert len(each.words) == len(each.word_ends) == 20 and each.word_ends[-1] == len(each.units)
        assert (np.diff(each.word_ends, prepend=0) >= 1).all()


@pytest.mark.slow
def test_rows_are_made_by_both_ways(tmp_path: Path, vocabulary: SpeechTextVocabulary) -> None:
    found = benchmark_data(vocabulary, tmp_path, corpus_units=[100_000, 300_000], max_length=2048, rows=40)
    assert [(each.way, each.corpus_units) for each in found] == [
        ("packed", 100_000),
        ("text", 100_000),
        ("packed", 300_000),
    ]
    for each in found:
        assert 0.8 < each.fill <= 1 and each.tokens_per_second > 0 and each.peak_bytes > 1e7
    assert found[2].fill > 0.97
    assert [row["way"] for row in json.loads((tmp_path / "data_benchmark.json").read_text())] == [
        "packed",
        "text",
        "packed",
    ]


SLACK = 6e6  # bytes: what malloc holds of the heap differs by some 4 MB between runs; the manifest's rows are 20


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, vocabulary: SpeechTextVocabulary) -> None:
    """Of 19,000 more utterances, whose manifest has 20 MB, each costs a job and an index some dozens of bytes."""
    few, many = 1_000, 20_000
    uses = benchmark_memory(vocabulary, tmp_path, utterances=[few, many], max_length=96, rows=20)
    found = {(use.reader, use.utterances): use.bytes for use in uses}
    for reader, each in (("extract_units", 100), ("utterance index", 100), ("pretrain", 400)):
        assert found[reader, many] < found[reader, few] + each * (many - few) + SLACK, reader
    assert [row["reader"] for row in json.loads((tmp_path / "memory_benchmark.json").read_text())] == [
        use.reader for use in uses
    ]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []  # the data is gone
    # And the measure sees what there is; in a process of its own, whose peak was never higher.
    seen = "from usdm.training.memory_benchmark import peak_of; print(peak_of(lambda: bytearray(b'x' * 30_000_000)))"
    assert int(subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True).stdout) > 25e6


def test_a_short_run_is_measured(
    tmp_path: Path, vocabulary: SpeechTextVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_benchmark, "CORPUS_UNITS", 50_000)
    speed = benchmark_training(tiny_model(vocabulary), vocabulary, tmp_path, SETTINGS)
    model = tiny_model(vocabulary)
    assert speed.parameters == model.num_parameters()
    assert speed.model_flops == pytest.approx(speed.tokens_per_second * flops_per_token(model, 96, adapter=False))
    assert speed.utilisation > 0 and speed.device
    record = json.loads((tmp_path / "training_benchmark.json").read_text())
    assert record["utilisation"] == pytest.approx(speed.utilisation) and not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="steps=2"):
        benchmark_training(model, vocabulary, tmp_path, lm_benchmark.replace(SETTINGS, steps=2))


def test_flops_are_those_of_the_weights_that_multiply(vocabulary: SpeechTextVocabulary) -> None:
    """Against torch's own count of a forward pass, of which forward and backward are three."""
    from torch.utils.flop_counter import FlopCounterMode

    model, length = tiny_model(vocabulary), 32
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.int64), use_cache=False)
    counted = 3 * counter.get_total_flops() / length
    norms = sum(each.numel() for name, each in model.named_parameters() if "norm" in name)
    assert flops_per_token(model, length, adapter=False) - 6 * norms == pytest.approx(counted, rel=0.02)
    assert flops_per_token(model, length, adapter=True) == pytest.approx(counted * 2 / 3, rel=0.05)


def test_a_plan_adds_up() -> None:
    published = MistralConfig(
        vocab_size=42003,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    settings = LanguageModelSettings(
        steps=2000, gradient_accumulation_steps=128, bf16=True, gradient_checkpointing=True, sharding="fsdp2"
    )
    whole = plan_training(published, settings, corpus_hours=87_000, unit_rate=50)
    assert whole.parameters == whole.trained_parameters == 7_323_676_672
    assert whole.tokens == 2000 * 1024 * 8192 and whole.epochs == pytest.approx(0.93, abs=0.01)
    # 6 x 7.15 G weights that multiply and 12 x 32 x 4,096 x 8,192 of attention, for 16.8 G tokens on 8 GPUs.
    flops = 6 * (7_323_676_672 - 42003 * 4096) + 12 * 32 * 4096 * 8192
    assert whole.hours == pytest.approx(whole.tokens * flops / (989e12 * 0.4 * 8) / 3600)
    assert whole.state_bytes == pytest.approx(7_323_676_672 * 16 / 8, rel=1e-6) and whole.fits
    assert not plan_training(published, settings, corpus_hours=1, unit_rate=50, gpu="L4", processes=1).fits
    lora = pytest.importorskip("peft").LoraConfig(r=64, target_modules="all-linear", task_type="CAUSAL_LM")
    few = plan_training(published, settings, adapter=lora, corpus_hours=87_000, unit_rate=50)
    assert few.trained_parameters < 0.03 * few.parameters and few.state_bytes < whole.state_bytes / 4
    # Frozen weights stay in bfloat16 only where that is computed in; of whole copies autocast keeps another.
    single = replace(settings, bf16=False)
    frozen = few.parameters - few.trained_parameters
    more = plan_training(published, single, adapter=lora, corpus_hours=1, unit_rate=50).state_bytes - few.state_bytes
    assert more == pytest.approx(2 * frozen / 8, rel=1e-6)
    copied = plan_training(published, replace(settings, sharding="none"), corpus_hours=1, unit_rate=50)
    assert copied.state_bytes == 7_323_676_672 * 18
    # Frozen weights need no gradient; the adapter's own weights are few.
    assert few.hours == pytest.approx(whole.hours * 2 / 3, rel=0.03)
    with pytest.raises(InputError, match="gpu=T4: there are H200"):
        plan_training(published, settings, corpus_hours=1, unit_rate=50, gpu="T4")
    with pytest.raises(InputError, match="efficiency=0"):
        plan_training(published, settings, corpus_hours=1, unit_rate=50, efficiency=0)
