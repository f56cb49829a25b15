"""docs/add_your_language.md: its files, and every command on it, at sizes that learn nothing."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from usdm.cli.main import main

PAGE = REPOSITORY / "docs" / "add_your_language.md"
LOOP = ["loop.steps=1", "loop.warmup_steps=0", "loop.log_every=1", "loop.save_every=1", "loop.validate_every=1"]
SMALLEST = {
    "prepare_questions": ["copies=1"],
    "synthesize_corpus": ["processes=1"],
    "extract_units": ["processes=1"],
    "train_tokenizer": ["size=340"],
    "finetune": [*LOOP, "loop.batch_size=1", "loop.validation_rows=1", "loop.report_to=[]"],
    "train_decoder": [*LOOP, "task.regression_steps=1", "task.batch_size=1", "task.validation_utterances=1"],
    "package_model": [
        "generation.sampling.transcribe.num_beams=1",
        "generation.sampling.transcribe.max_new_tokens=6",
        "+generation.sampling.respond={_target_: usdm.types.Sampling, max_new_tokens: 6}",
        "+generation.sampling.speak={_target_: usdm.types.Sampling, max_new_tokens: 6}",
    ],
    "evaluate": ["limit=1"],
}


def usdm(command: str) -> None:
    verb, *given = shlex.split(command, comments=True)[1:]
    assert main([verb, *given, *SMALLEST.get(verb, [])]) == 0, command


@pytest.mark.slow
@pytest.mark.system_packages("espeak-ng")
def test_a_language_from_its_files_to_a_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    text = PAGE.read_text(encoding="utf-8")
    for name, content in re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
    [block] = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    shown, made, *after = block.splitlines()
    capfd.readouterr()
    usdm(shown)
    stages = re.findall("^usdm .*", capfd.readouterr().out, re.MULTILINE)
    assert made.split("#")[0].split() == shown.split("#")[0].replace("show=true", "").split()
    for stage in stages:  # as `make_model` runs them, in this process
        usdm(stage)
    dialogs = [json.loads(line) for line in Path("runs/german/questions/dialogs.jsonl").read_text().splitlines()]
    assert "hast du um sieben zeit?" in {dialog["turns"][0]["text"] for dialog in dialogs}
    pieces = json.loads(Path("runs/german/model/llm/tokenizer.json").read_text())["model"]["vocab"]
    assert "ü" in pieces
    for command in after:
        usdm(command)
    assert Path("reply.wav").stat().st_size > 44
    card = Path("runs/german/evaluation/scorecard.json").read_text()
    assert "transcript_cer" in card
