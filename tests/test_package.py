"""Finished parts to one folder with model cards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_models import as_readable_as_new_files, build_random_bundle

from usdm.chain import DecoderSampling, GenerationSettings, SpokenDialogPipeline
from usdm.training.model_cards import training_record
from usdm.training.package import PARTS, package_model
from usdm.turns import TurnHead, TurnHeadRule
from usdm.types import InputError, Sampling

GENERATION = GenerationSettings(
    sampling={stage: Sampling(max_new_tokens=20) for stage in ("transcribe", "respond", "speak")},
    decoder=DecoderSampling(steps=1, solver="euler", guidance=0.0, temperature=0.0),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    build_random_bundle(folder)
    run = folder / "run"
    run.mkdir()
    record = {"settings": {"steps": 12, "learning_rate": 0.001, "seed": 0}, "hours": 0.5, "validation": {"loss": 1.25}}
    (run / "training.json").write_text(json.dumps(record))
    return folder


def test_the_packaged_model_answers_as_its_parts_do(bundle: Path, tmp_path: Path) -> None:
    (bundle / "units/centroids.safetensors").chmod(0o600)
    scorecard = tmp_path / "scorecard.json"
    scorecard.write_text(json.dumps({"items": 8, "transcript_wer": 0.125, "real_time_factor": 0.1, "details": {}}))
    table = tmp_path / "table.md"
    table.write_text("| voice | WER |\n")
    (bundle / "curves.png").write_bytes(b"a picture")
    original = SpokenDialogPipeline.from_pretrained(bundle)
    TurnHead.for_units(original.parts.units, hidden=2).save_pretrained(tmp_path / "head")
    packaged = package_model(
        str(tmp_path / "model"),
        parts={name: str(bundle / name) for name in PARTS},
        runs={"encoder": str(bundle / "run")},
        facts={"Data": "Made up.", "Limits": "Says nothing of sense.", "Story": "Long ago."},
        license_id="cc-by-4.0",
        generation=GENERATION,
        voices={"hers": "flite-slt", "his": None},
        voices_corpus=str(_spoken(tmp_path / "speech")),
        turn_head=str(tmp_path / "head"),
        scorecard=str(scorecard),
        tables=[str(table)],
    )
    assert as_readable_as_new_files(tmp_path / "model")
    assert packaged.bytes == sum(path.stat().st_size for path in (tmp_path / "model").rglob("*.safetensors"))
    for name in PARTS:
        state = load_file(tmp_path / "model" / name / "model.safetensors")
        assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}
        assert sum(value.numel() for value in state.values()) == packaged.parameters[name]
        assert "license: cc-by-4.0\n" in (tmp_path / "model" / name / "README.md").read_text()
    card = (tmp_path / "model/README.md").read_text()
    assert card.startswith("---\n") and "license: cc-by-4.0\n" in card and len(card.splitlines()) <= 40
    assert "Made up." in card and "Long ago." not in card and "- steps: 12" not in card
    record = (tmp_path / "model/record/README.md").read_text()
    assert "Long ago." in record and "Made up." not in record
    assert "| transcript_wer | 0.125 |" in card and "real_time_factor" not in card
    assert "| transcript_wer | 0.125 |" in record and "| real_time_factor | 0.1 |" in record
    assert "- steps: 12" in record and "- loss: 1.25" in record
    assert "\n| voice | WER |\n" in record
    assert "](encoder.png)" in record
    assert (tmp_path / "model/record/encoder.png").read_bytes() == b"a picture"

    pipeline = SpokenDialogPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.settings == GENERATION
    TurnHeadRule().detector(pipeline.parts.units, tmp_path / "model")
    assert pipeline.parts.units.identity == original.parts.units.identity
    reply = pipeline.respond(text="hello", seed=0)
    assert reply.waveform is not None and torch.isfinite(reply.waveform).all()
    assert pipeline.voices == ["hers"]
    sound, rate = soundfile.read(tmp_path / "model/voices/hers.flac", dtype="float32")
    expected, _ = soundfile.read(tmp_path / "speech/1.wav", dtype="float32")
    assert rate == 16_000 and np.abs(sound - expected).max() < 1e-4


def _spoken(folder: Path) -> Path:
    """Of two dev recordings of one speaker the second is as long as a reference should be."""
    folder.mkdir()
    rows = []
    for number, seconds in enumerate((0.5, 2.0)):
        soundfile.write(
            folder / f"{number}.wav", np.random.default_rng(number).normal(0, 0.1, int(16_000 * seconds)), 16_000
        )
        row = {"id": str(number), "audio": f"{number}.wav", "speaker": "flite-slt", "role": "agent", "split": "dev"}
        rows.append(json.dumps(row | {"dialog": "d", "turn": number, "duration": seconds, "sample_rate": 16_000}))
    (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def test_voices_without_recordings_are_refused(bundle: Path, tmp_path: Path) -> None:
    parts = {name: str(bundle / name) for name in PARTS}
    for voices, corpus, message in (
        ({"a": "nobody"}, str(_spoken(tmp_path / "speech")), "speaker nobody has no dev recording"),
        ({"a": "flite-slt"}, None, "give voices_corpus"),
    ):
        with pytest.raises(InputError, match=message):
            package_model(
                str(tmp_path / "model"),
                parts=parts,
                runs={},
                facts={},
                license_id="mit",
                generation=GENERATION,
                voices=voices,
                voices_corpus=corpus,
            )
    assert not (tmp_path / "model").exists()


def test_what_is_missing_is_listed_and_nothing_is_written(bundle: Path, tmp_path: Path) -> None:
    parts = {"units": str(bundle / "units"), "llm": str(tmp_path / "nowhere")}
    with pytest.raises(InputError, match=r"parts\.decoder.*parts\.llm=.*nowhere.*runs\.encoder"):
        package_model(
            str(tmp_path / "model"),
            parts=parts,
            runs={"encoder": str(tmp_path)},
            facts={},
            license_id="mit",
            generation=GENERATION,
        )
    assert not (tmp_path / "model").exists()


def test_a_folder_of_something_else_is_not_replaced(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    parts = {name: str(bundle / name) for name in PARTS}
    with pytest.raises(InputError, match="holds no packaged model but something else"):
        package_model(str(tmp_path), parts=parts, runs={}, facts={}, license_id="mit", generation=GENERATION)
    for _ in range(2):  # a packaged model is replaced
        package_model(str(tmp_path / "model"), parts=parts, runs={}, facts={}, license_id="mit", generation=GENERATION)
    assert (tmp_path / "thesis.tex").exists()


def test_every_figure_of_a_model_card_has_a_unit() -> None:
    figures = {"items": 60, "refused": 0.0, "transcript_wer": 0.1, "reply_meteor": 0.3, "my_metric": 1.0}
    rows = [line for line in training_record({}, {}, figures).splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == ["figure", *figures]
    assert all(row.count("|") == 4 and row.split("|")[3].strip() for row in rows)
    assert "| refused | 0 | share of the replies |" in rows
