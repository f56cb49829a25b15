"""`usdm synthesize` from the command line: killed and resumed, in shards, and what it tells."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_models import build_random_bundle

from usdm.cli.main import main

SEARCH_PATH = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
NUM_QUESTIONS = 24


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with questions of every kind, the first of them a recording."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write("question.wav", noise, 16_000)
    kinds = ({"audio": "question.wav"}, {"text": "how are you?"}, {"units": [1, 2, 3, 4]})
    rows = [{"id": f"q{number}", "seed": number} | kinds[number % 3] for number in range(NUM_QUESTIONS)]
    Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def arguments(bundle: Path, *more: str) -> list[str]:
    """`more` may take the place of the usual settings."""
    limits = [f"sampling.{stage}.max_new_tokens=12" for stage in ("transcribe", "respond", "speak")]
    usual = ["requests=questions.jsonl", "device=cpu", "decoding.steps=2", "capacity=4", *limits]
    given = {argument.partition("=")[0] for argument in more}
    kept = [argument for argument in usual if argument.partition("=")[0] not in given]
    return ["synthesize", *more, f"model.name={bundle}", *kept]


def outcome(folder: Path) -> dict[str, tuple[dict[str, object], bytes]]:
    """Results without their times, and sounds, by id, each of which is there once."""
    found = {}
    for line in (folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        row["timings"] = sorted(row["timings"])
        assert row["id"] not in found
        found[row["id"]] = (row, (folder / f"{row['id']}.wav").read_bytes())
    assert len(found) == NUM_QUESTIONS
    return found


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow  # the ordinary tests kill every stage in test_torture.py
def test_a_run_that_was_killed_twice_ends_as_if_it_had_not(bundle: Path, folder: Path) -> None:
    slow = "decoding.steps=16"
    assert main(arguments(bundle, "output_dir=whole", slow)) == 0
    results, chance = folder / "killed" / "results.jsonl", random.Random()
    for _ in range(2):
        command = [sys.executable, "-m", "usdm.cli.main", *arguments(bundle, "output_dir=killed", slow)]
        before, more = num_lines(results), chance.randint(1, 6)
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": SEARCH_PATH}, stderr=subprocess.PIPE) as run:
            while run.poll() is None and num_lines(results) < before + more:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.02))
            run.send_signal(signal.SIGKILL)
            assert run.wait() == -signal.SIGKILL, run.stderr and run.stderr.read().decode()
        assert before < num_lines(results) < NUM_QUESTIONS
    assert main(arguments(bundle, "output_dir=killed", slow)) == 0
    assert outcome(folder / "killed") == outcome(folder / "whole")


def test_shards_of_one_command(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(bundle, "output_dir=whole")) == 0
    assert "24 of 24 requests done" in capsys.readouterr().out
    assert main(arguments(bundle, "-m", "output_dir=shards", "num_shards=3", "shard=range(0,3)")) == 0
    told = capsys.readouterr().out
    assert "other shards have still to end" in told and "results in shards/results.jsonl" in told
    assert outcome(folder / "shards") == outcome(folder / "whole")
    for shard in range(3):
        kept = folder / "shards" / "shards" / str(shard)
        assert f"shard={shard}" in (kept / ".hydra" / "overrides.yaml").read_text()
        assert json.loads((kept / "versions.json").read_text())["seed"] == 0


def test_a_folder_of_recordings_with_a_bad_one(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.wav").write_bytes(b"RIFF")
    assert main(arguments(bundle, "requests=.", "output_dir=replies")) == 1
    told = capsys.readouterr()
    assert "1 of 2 requests failed" in told.err and "broken: " in told.err and "retry_errors=true" in told.err
    assert "2 of 2 requests done" in told.out and "Traceback" not in told.err
    made = {path.name for path in (folder / "replies").iterdir()}
    files = {"question.wav", "results.jsonl", "run.json", "run.lock", "versions.json", ".hydra", "synthesize.log"}
    assert made == files
    soundfile.write("broken.wav", soundfile.read("question.wav")[0], 16_000)
    assert main(arguments(bundle, "requests=.", "output_dir=replies")) == 1
    assert main(arguments(bundle, "requests=.", "output_dir=replies", "retry_errors=true")) == 0
    replies = [soundfile.read(f"replies/{name}.wav")[0] for name in ("broken", "question")]
    assert np.array_equal(*replies)


def test_bad_input_is_one_message(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.jsonl").write_text('{"id": "a", "text": "hi"}\n{"id": "b", "txt": "hi"}\n')
    Path("one.jsonl").write_text('{"id": "a", "units": [1, 2]}\n')
    assert main(arguments(bundle, "requests=one.jsonl")) == 0
    capsys.readouterr()
    cases = {
        "requests=absent.jsonl": "requests=absent.jsonl: no such file",
        "requests=wrong.jsonl": "line 2: unknown key txt",
        "capacity=many": "full_key: capacity",
        "seed=1": "seed: 0 then, 1 now",
        "sampling.speak.temperature=0.7": "sampling.speak.temperature: 0.0 then, 0.7 now",
        "shard=1": "shard=1 of num_shards=1",
    }
    for given, told in cases.items():
        others = [] if given.startswith("requests") else ["requests=one.jsonl"]
        assert main(arguments(bundle, given, *others)) == 2
        printed = capsys.readouterr().err
        assert "usdm synthesize: " in printed and told in printed and "Traceback" not in printed
