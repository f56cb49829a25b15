"""Training over several processes: the same losses and weights as one, and a whole model at the end."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from test_lm_training import SETTINGS, SOURCE, WORDS, read_log, tiny_model

from usdm.data.unit_corpus import UnitCorpusWriter, UnitUtterance
from usdm.lm import load_model
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.training.language_model import pretrain
from usdm.training.tokenizer import train_tokenizer

STEPS = dataclasses.replace(SETTINGS, report_to=(), rows=2, validate_every=None, save_every=3)


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
    """One process with two rows a step."""
    vocabulary = SpeechTextVocabulary.from_pretrained(prepared)
    pretrain(tiny_model(vocabulary), vocabulary, [prepared / "corpus.parquet"], prepared / "alone", STEPS)
    return prepared / "alone"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_two_processes_train_what_one_does_with_the_same_rows(prepared: Path, alone: Path, sharding: str) -> None:
    run = prepared / sharding
    program = prepared / f"{sharding}.py"
    program.write_text(
        textwrap.dedent(f"""
            import dataclasses, sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import test_lm_distributed as here
            vocabulary = here.SpeechTextVocabulary.from_pretrained({str(prepared)!r})
            settings = dataclasses.replace(here.STEPS, rows=1, sharding={sharding!r})
            corpus = {str(prepared / "corpus.parquet")!r}
            here.pretrain(here.tiny_model(vocabulary), vocabulary, [corpus], {str(run)!r}, settings)
        """)
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    done = subprocess.run([*launcher, str(program)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = ([row for row in read_log(folder) if "loss" in row] for folder in (run, alone))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], abs=1e-4)
    trained, wanted = load_model(run / "model").state_dict(), load_model(alone / "model").state_dict()
    assert trained.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(trained[name], value, atol=1e-4, rtol=0)
    mine, single = (json.loads((folder / "model" / "training.json").read_text()) for folder in (run, alone))
    assert mine["validation"] == pytest.approx(single["validation"], abs=1e-4)
