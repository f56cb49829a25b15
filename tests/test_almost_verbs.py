"""From contrast to a reinforced model, verb by verb, on random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_models import SHORT_TEMPLATE, as_readable_as_new_files, build_random_bundle, save_random_llm

from usdm.chain import DecoderSampling, GenerationSettings
from usdm.cli.main import main
from usdm.data.unit_corpus import UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.types import Sampling
from usdm.units import load_unit_tokenizer

pytest.importorskip("trl", reason="needs usdm[align]")

WORDS = ["a", "table", "for", "two", "at", "the", "new", "place", "please"]
STAGES = ("transcribe", "respond", "speak")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle, a worse language model, and a unit corpus; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    bundle = build_random_bundle(tmp_path / "bundle")
    GenerationSettings({stage: Sampling(max_new_tokens=6) for stage in STAGES}, DecoderSampling(steps=1)).save(bundle)
    save_random_llm(tmp_path / "worse", 20, SHORT_TEMPLATE, num_hidden_layers=1)
    source = UnitSource(20, 25, load_unit_tokenizer(bundle / "units").identity)
    random = np.random.default_rng(0)
    with UnitCorpusWriter(tmp_path / "corpus.parquet", source) as writer:
        for i in range(36):
            units = random.integers(0, 20, 8).astype(np.uint16)
            text = " ".join(WORDS[j] for j in random.integers(0, len(WORDS), 4))
            role, split = ("user", "agent")[i % 2], ("train", "dev")[i >= 28]
            writer.write(UnitUtterance(f"u{i}", "s", role, f"d{i // 2}", i % 2, split, text, units))
    soundfile.write(tmp_path / "question.wav", random.uniform(-0.5, 0.5, 12_000), 16_000)
    return tmp_path


def run(verb: str, *settings: str) -> None:
    assert main([verb, *settings]) == 0


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png") if path.read_bytes().startswith(b"\x89PNG"))


def test_from_contrast_to_a_model_that_answers(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    contrast = [
        "preference_source=contrast",
        "+preference_source.ladder.good.llm=bundle/llm",
        "+preference_source.ladder.bad.llm=worse",
        "+preference_source.ladder.bad.temperature=1",
        "preference_source.filters.cut_off=false",
        "preference_source.filters.shortest=null",
        "preference_source.max_new_tokens=6",
    ]
    run("prepare_preferences", *contrast, "corpora=[corpus.parquet]", "splits=[train]", "output_dir=pairs")
    assert "left out: " in capfd.readouterr().err
    trained = ["pretrained=bundle/llm", "preferences=pairs/train.jsonl", "+test_preferences.same=pairs/train.jsonl"]
    run("train_reward", *trained, "output_dir=reward", "loop.dev_every=4", "loop.batch_size=4", "loop.log_every=1")
    record = json.loads((folder / "reward" / "run.json").read_text())
    assert record["done"] and 0 <= record["figures"]["same_accuracy"] <= 1
    assert pictures(folder / "reward") == ["curves.png"]
    assert as_readable_as_new_files(folder / "reward/model")
    best = ["model.name=bundle", "candidates=3", "choose=reward", "choose.folder=reward/model"]
    run("respond", *best, "input=question.wav", "output=reply.wav", "trace=reply.json")
    assert json.loads(Path("reply.json").read_text())["agent_text"]
    course = ["pretrained=bundle/llm", "corpora=[corpus.parquet]", "reward.folder=reward/model", "typed=true"]
    short = ["loop.steps=2", "loop.batch_size=4", "loop.num_generations=2", "loop.max_new_tokens=6"]
    watched = ["+reward@watch.meteor=meteor", "loop.validation_questions=3", "loop.log_every=1"]
    run("reinforce", *course, *short, *watched, "output_dir=course")
    assert "meteor" in json.loads((folder / "course" / "run.json").read_text())["figures"]
    assert pictures(folder / "course") == ["curves.png", "rewards_over_kl.png"]
    run("respond", "model.name=bundle", "model.llm=course/model", "text=a table", "output=other.wav")
    assert soundfile.info("other.wav").frames > 0
    spoken = ["pretrained=bundle/llm", "corpora=[corpus.parquet]", "reward=heard", "stage=speak"]
    run("reinforce", *spoken, *short, "loop.validation_questions=3", "output_dir=spoken")
    capfd.readouterr()
    assert main(["reinforce", *course, *short, "loop.num_generations=3", "output_dir=other"]) == 2
    assert "num_generations=3, batch_size=4" in capfd.readouterr().err
