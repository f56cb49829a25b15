"""Training over several processes, with whole copies of the weights or FSDP2's parts: what one process would make."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_models import quick_runs  # noqa: F401 (used by itself)
from lm_processes import WHOLE, cut_off
from test_lm_training import SETTINGS, SOURCE, WORDS, read_log, tiny_model

from usdm.data.unit_corpus import UnitCorpusWriter, UnitUtterance
from usdm.lm import load_model
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.training.language_model import pretrain
from usdm.training.lm_trainer import newest_checkpoint
from usdm.training.tokenizer import train_tokenizer
from usdm.types import InputError

SHARDED_RUNS = ("sharded_1", "sharded_2", "sharded_2_then_2", "sharded_2_then_1", "sharded_1_then_2")
RUNS = ("whole_2", "whole_1_then_2", *SHARDED_RUNS)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary and a unit corpus."""
    folder = tmp_path_factory.mktemp("distributed")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 330)
    SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, SOURCE.num_units)).save_pretrained(folder)
    random = np.random.default_rng(0)
    with UnitCorpusWriter(folder / "corpus.parquet", SOURCE, rows_per_group=16) as writer:
        for i in range(120):
            spoken = random.integers(0, len(WORDS), 4)
            words = tuple(WORDS[j] for j in spoken)
            units, ends = np.repeat(spoken, 2).astype(np.uint16), np.arange(2, 9, 2, dtype=np.int32)
            split = "train" if i < 96 else "dev"
            writer.write(UnitUtterance(f"u{i}", "s", "user", f"d{i}", 0, split, " ".join(words), units, words, ends))
    return folder


@pytest.fixture(scope="module")
def alone(prepared: Path) -> Path:
    """One process without a launcher, four rows a step."""
    vocabulary = SpeechTextVocabulary.from_pretrained(prepared)
    pretrain(tiny_model(vocabulary), vocabulary, [prepared / "corpus.parquet"], prepared / "alone", WHOLE)
    return prepared / "alone"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def runs(prepared: Path, alone: Path) -> Path:
    """The folder of the runs of `lm_processes`."""
    cut_off(alone, prepared / "whole_1_then_2")
    program, port = Path(__file__).with_name("lm_processes.py"), str(free_port())
    started = []
    for rank in ("0", "1"):
        with (prepared / f"{rank}.log").open("w") as log:
            command = [sys.executable, str(program), str(prepared), rank, port]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
    # Where one fails the other waits for it for ever.
    last = time.monotonic() + 240
    while {process.poll() for process in started} <= {None, 0} and time.monotonic() < last:
        if all(process.returncode == 0 for process in started):
            return prepared
        time.sleep(0.1)
    for process in started:
        process.kill()
        process.wait()
    raise AssertionError("\n".join((prepared / f"{rank}.log").read_text()[-3000:] for rank in "01"))


@pytest.mark.parametrize("name", RUNS)
def test_processes_train_and_export_what_one_does_with_the_same_rows(runs: Path, alone: Path, name: str) -> None:
    run = runs / name
    ours, theirs = read_log(run), read_log(alone)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [1, 2, 3, 3, 4, 5, 6, 6]
    for row, wanted in zip(ours, theirs, strict=True):
        assert row == pytest.approx(wanted, abs=1e-4)
    trained, wanted = load_model(run / "model").state_dict(), load_model(alone / "model").state_dict()
    assert trained.keys() == wanted.keys()
    for weight, value in wanted.items():
        torch.testing.assert_close(trained[weight], value, atol=1e-4, rtol=0)
    mine, single = (json.loads((folder / "model" / "training.json").read_text()) for folder in (run, alone))
    assert mine["validation"] == pytest.approx(single["validation"], abs=1e-4)


def wrappers(runs: Path) -> list[dict[str, Any]]:
    """What the models were at each validation."""
    return [json.loads(line) for rank in "01" for line in (runs / f"wrappers-{rank}.jsonl").read_text().splitlines()]


def test_shards_compute_in_bfloat16_and_do_nothing_else_in_it(runs: Path, alone: Path) -> None:
    facts = [fact for fact in wrappers(runs) if fact["run"] == "sharded_bf16"]
    assert facts and all(fact["dtypes"] == ["torch.float32"] for fact in facts)
    policy = "MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None"
    assert all(fact["policy"].startswith(policy) for fact in facts)
    ours, theirs = ([row["loss"] for row in read_log(run) if "loss" in row] for run in (runs / "sharded_bf16", alone))
    assert ours == pytest.approx(theirs, abs=1e-3) and ours != pytest.approx(theirs, abs=1e-6)


def test_weights_are_sharded_or_whole_as_was_asked(runs: Path) -> None:
    facts = [fact for fact in wrappers(runs) if fact["run"] != "sharded_bf16"]
    assert {fact["run"] for fact in facts} == {*RUNS}
    assert all(fact["dtypes"] == ["torch.float32"] for fact in facts)
    numbers = tiny_model(SpeechTextVocabulary.from_pretrained(runs)).num_parameters()
    for fact in facts:
        assert fact["sharded"] == (fact["run"] in SHARDED_RUNS)
        assert fact["weights"] == (["DTensor"] if fact["sharded"] else ["Parameter"])
    at_the_end = {(fact["run"], fact["rank"]): fact["numbers"] for fact in facts if fact["step"] == 6}
    for name in ("sharded_2", "sharded_2_then_2", "sharded_1_then_2"):
        assert at_the_end[name, 0] + at_the_end[name, 1] == numbers
        assert at_the_end[name, 0] == pytest.approx(numbers / 2, rel=0.01)
    assert at_the_end["whole_2", 0] == at_the_end["whole_2", 1] == numbers
    # Each goes on where it was: no step is run twice, and what has all its steps runs none to write its model.
    steps = [fact["step"] for fact in facts if fact["run"] == "sharded_2_then_2" and fact["rank"] == 0]
    assert steps == [6]


def test_one_process_goes_on_from_two(runs: Path, alone: Path) -> None:
    run = runs / "whole_2_then_1"
    cut_off(runs / "whole_2", run)
    assert newest_checkpoint(run) == (run / "checkpoint-3", 3)
    vocabulary = SpeechTextVocabulary.from_pretrained(runs)
    figures = pretrain(tiny_model(vocabulary), vocabulary, [runs / "corpus.parquet"], run, WHOLE)
    assert figures == pytest.approx(json.loads((alone / "model" / "training.json").read_text())["validation"], abs=1e-4)
    # Another number of rows a step is another training.
    cut_off(runs / "whole_2", runs / "other_rows")
    with pytest.raises(InputError, match="rows_per_step: 4 then, 1 now"):
        settings = dataclasses.replace(WHOLE, batch_size=1)
        pretrain(tiny_model(vocabulary), vocabulary, [runs / "corpus.parquet"], runs / "other_rows", settings)


def test_shards_need_a_launcher(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, sharding="fsdp2")
    with pytest.raises(InputError, match="sharding=fsdp2 .* torchrun --nproc-per-node N .*, or set sharding=none"):
        settings.arguments(tmp_path)
