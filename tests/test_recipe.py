"""The whole recipe at its smallest, by the verbs of docs/embedded_model.md: from text to a model that replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from usdm.cli.main import main

LOOP = ["loop.steps=2", "loop.warmup_steps=1", "loop.log_every=1", "loop.validate_every=2", "loop.save_every=1"]
SMALL = [*LOOP, "loop.threads=1"]
LLM_ROWS = ["loop.max_length=192", "loop.batch_size=1", "loop.validation_rows=2"]
EXCHANGES = [
    ("hi, i need a table for two.", "sure, for what time?"),
    ("at six please.", "your table is booked."),
    ("play some music please.", "which song do you like?"),
    ("what is the weather like?", "it is sunny today."),
]


# Voices of synthesisers that are in Debian's main, so that the recipe speaks wherever the list's packages are.
VOICES = ["voices.user=[flite-kal16,flite-rms]", "voices.held_out=[flite-awb]"]


def usdm(*arguments: str) -> None:
    shared = [] if arguments[0] in ("respond", "evaluate") else ["shared.folder=run", "shared.num_units=12"]
    assert main([*arguments, *shared]) == 0, arguments


def vocabulary_of(folder: str) -> bytes:
    return Path(folder, "model/tokenizer.json").read_bytes()


def write_dialogs(path: Path, name: str) -> None:
    """In the layout that `prepare_dialogs` reads: one dialog a line."""
    turns = [
        {"speaker": side, "text": text}
        for pair in EXCHANGES
        for side, text in zip(("user", "agent"), pair, strict=True)
    ]
    path.write_text(json.dumps({"dialog": name, "services": ["Restaurants_1"], "turns": turns}) + "\n")


def keep_few_dialogs(path: Path) -> None:
    """Two for each split of what was prepared, with thousands of dialogs of small talk among it."""
    dialogs = [json.loads(line) for line in path.read_text().splitlines()]
    trained = [dialog for dialog in dialogs if dialog["split"] == "train"]
    tested = [dialog for dialog in dialogs if dialog["split"] == "test"]
    kept = [*trained[:2], *(dialog | {"split": "dev"} for dialog in trained[2:4]), *tested[:2]]
    path.write_text("".join(json.dumps(dialog) + "\n" for dialog in kept))


@pytest.mark.system_packages("flite", "espeak-ng")
def test_the_recipe_from_text_to_a_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_dialogs(tmp_path / "train.jsonl", "a")
    write_dialogs(tmp_path / "held_out.jsonl", "b")
    usdm("prepare_dialogs", "train_file=train.jsonl", "held_out_file=held_out.jsonl")
    keep_few_dialogs(tmp_path / "run/dialogs/dialogs.jsonl")
    usdm("synthesize_corpus", *VOICES, "processes=1")
    usdm("make_held_out", "exchanges=1")
    Path("text.txt").write_text("A purple zeppelin flies. It flies over the old town. No end")
    usdm("prepare_sentences", "text_files=[text.txt]", "sentences=2", "dev_share=0")
    spoken = ["dialogs_file=run/sentences/dialogs.jsonl", "output_dir=run/sentences_speech"]
    usdm("synthesize_corpus", *spoken, *VOICES, "processes=1")
    encoder = ["encoder.hidden_size=32", "encoder.intermediate_size=32", "encoder.conv_dim=[8,8,8,8,8,8]"]
    usdm("train_encoder", "corpora=[run/speech]", "task.batch_seconds=6", "task.repeats=null", *encoder, *SMALL)
    usdm("fit_kmeans", "corpora=[run/speech]", "frames=200")
    usdm("extract_units", "corpora=[run/speech]", "processes=1")
    usdm("extract_units", "corpora=[run/speech]", "augmentation=other_voices", "output_dir=run/varied", "processes=1")
    sentences = ["corpora=[run/sentences_speech]", "output_dir=run/sentences_units"]
    usdm("extract_units", *sentences, "augmentation=other_voices", "processes=1")
    usdm("train_tokenizer", "size=330")
    llm = ["llm.model.hidden_size=32", "llm.model.intermediate_size=32", *SMALL, *LLM_ROWS]
    usdm("pretrain", *llm)
    usdm("finetune", "corpora=[run/unit_corpus,run/varied,run/sentences_units]", *SMALL, *LLM_ROWS)
    usdm("finetune", "llm=tiny", "splice_augmentation=null", "output_dir=run/scratch", *llm)
    assert vocabulary_of("run/scratch") == vocabulary_of("run/finetune")
    decoder = ["decoder.hidden_size=32", "decoder.intermediate_size=32", "decoder.num_hidden_layers=2"]
    task = ["task.regression_steps=1", "task.batch_size=2", "task.default_speaker=null"]
    usdm("train_decoder", "corpora=[run/speech]", *task, *decoder, *SMALL)
    vocoder = ["vocoder.dim=16", "vocoder.intermediate_dim=16", "vocoder.num_layers=1"]
    usdm("train_vocoder", "corpora=[run/speech]", *vocoder, *SMALL)
    usdm("package_model", "voices=null")

    short = [f"sampling.{stage}.max_new_tokens=8" for stage in ("transcribe", "respond", "speak")]
    usdm("respond", "model.name=run/model", "text=hi there", "trace=reply.json", "decoding.steps=1", *short)
    assert (tmp_path / "reply.wav").stat().st_size > 44  # more than its header
    assert max(json.loads((tmp_path / "reply.json").read_text())["agent_units"]) < 12

    stages = {
        "dialogs",
        "speech",
        "encoder",
        "units",
        "unit_corpus",
        "tokenizer",
        "pretrain",
        "finetune",
        "decoder",
        "vocoder",
    }
    for stage in stages:
        assert (tmp_path / "run" / stage / ".hydra/config.yaml").is_file()
        assert (tmp_path / "run" / stage / "versions.json").is_file()
    cards = {str(path.relative_to(tmp_path)) for path in (tmp_path / "run/model").rglob("README.md")}
    assert cards >= {f"run/model/{part}/README.md" for part in ("units", "llm", "decoder", "vocoder")}
    assert not list((tmp_path / "run/model").rglob("*.log"))
