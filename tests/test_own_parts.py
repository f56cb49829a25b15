"""Parts of one's own, from a folder outside the package: what docs/change_one_part.md shows is what runs here."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import REPOSITORY
from hums import write_hums
from test_lm_training import WORDS, corpus  # noqa: F401 (a fixture)

from usdm.cli.main import main
from usdm.training.tokenizer import save_tokenizer, train_tokenizer

PAGE = REPOSITORY / "docs" / "change_one_part.md"
# What makes each verb's experiment the smallest one.
LOOP = ["loop.steps=1", "loop.warmup_steps=0", "loop.log_every=1", "loop.save_every=1", "loop.validation_rows=1"]
ROWS = ["loop.validate_every=null", "loop.max_length=96", "loop.batch_size=1", "loop.threads=1", "loop.report_to=[]"]
MODEL = ["llm.model.hidden_size=16", "llm.model.intermediate_size=32", "llm.model.num_hidden_layers=1"]
SMALLEST = {
    "extract_units": ["corpora=[speech]", "processes=1", "shared.folder=run"],
    "pretrain": ["llm.tokenizer=tokenizer", "segment_units=20", "shared.folder=run", *LOOP, *ROWS, *MODEL],
    "respond": [f"sampling.{stage}.max_new_tokens=6" for stage in ("transcribe", "respond", "speak")],
    "import_corpus": ["shared.folder=run", "threads=1"],
    "predict": ["limit=1"],
}


def section(title: str) -> str:
    """The text under a heading of the page."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def write_example(title: str) -> None:
    """Its files, in the working directory."""
    files = re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', section(title), re.MULTILINE | re.DOTALL)
    assert len(files) >= 2
    for name, content in files:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)


def example_commands(title: str) -> list[list[str]]:
    [commands] = re.findall(r"^```sh\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for line in commands.splitlines()]


def run_example(title: str, *more: str) -> None:
    """`more`: for every command, beside what makes it small."""
    write_example(title)
    for verb, *given in example_commands(title):
        assert main([verb, *given, *SMALLEST.get(verb, []), *more]) == 0, (verb, given)


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def tokenizer(outside: None) -> None:
    save_tokenizer(train_tokenizer([" ".join(WORDS)] * 4, 330), Path("tokenizer"))


def test_a_unit_tokenizer(tokenizer: None) -> None:
    write_hums(Path("speech"))
    manifest = Path("speech/manifest.jsonl")
    words = '"words": [["a", 0.0, 0.2], ["table", 0.2, 0.4], ["for", 0.4, 0.6]], "text": "a table for"'
    manifest.write_text(manifest.read_text().replace('"text": "hum"', words))
    run_example("Unit tokenizer")
    assert Path("loudness_lm/model/model.safetensors").is_file()


def test_a_decoder() -> None:
    run_example("Decoder: units to sound")
    assert soundfile.info("tones.wav").samplerate == 8_000


def test_an_interleaving(tokenizer: None, corpus: Path) -> None:  # noqa: F811
    run_example("Interleaving", f"corpora=[{corpus}]", "shared.num_units=20")
    record = Path("text_first_lm/model/training.json").read_text()
    assert "TextFirst" in record and "loss_text_to_units" in record and "loss_units_to_text" not in record


def test_an_objective(tokenizer: None, corpus: Path) -> None:  # noqa: F811
    run_example("Objective", f"corpora=[{corpus}]", "shared.num_units=20")
    assert '"objective.smoothing": 0.1' in Path("smoothed_lm/run.json").read_text()


def test_a_part_whose_code_was_changed_is_another_part(
    tokenizer: None,
    corpus: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = [f"corpora=[{corpus}]", "shared.num_units=20"]
    run_example("Objective", *where)
    code = Path("smoothed.py")
    code.write_text(code.read_text().replace("=self.smoothing", "=0.9 * self.smoothing"))
    monkeypatch.delitem(sys.modules, "smoothed")
    ((verb, *given),) = example_commands("Objective")
    assert main([verb, *given, *SMALLEST[verb], *where]) == 2
    assert re.search('objective.source: "\\w+" then, "\\w+" now', capsys.readouterr().err)
    assert main([verb, *given, *SMALLEST[verb], *where, "overwrite=true"]) == 0


def test_a_chooser() -> None:
    run_example("Chooser")
    assert "candidates" in json.loads(Path("reply.json").read_text())["timings"]
    record = Path("shortest_predictions/run.json").read_text()
    assert '"choose.fewest_words": 2' in record and '"choose.source"' in record


def test_a_corpus() -> None:
    Path("recordings").mkdir()
    for name in ("please_wait", "one_moment"):
        soundfile.write(f"recordings/{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    run_example("Corpus")
    assert "please wait" in Path("named_corpus/manifest.jsonl").read_text()


def test_a_metric_and_a_recogniser(capsys: pytest.CaptureFixture[str]) -> None:
    run_example("Metric and recogniser")
    told = capsys.readouterr().out
    assert "reply_words" in told
