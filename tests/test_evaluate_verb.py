"""`usdm evaluate` from the command line, on random weights and with a stand-in for the recogniser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_models import build_random_bundle

from usdm.chain import DecoderSampling, GenerationSettings
from usdm.cli.main import main
from usdm.types import Sampling, Waveform

STAGES = ("transcribe", "respond", "speak")


class Recogniser:
    name = identity = "always hello"

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        return ["hello"] * len(waveforms)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_random_bundle(tmp_path_factory.mktemp("bundle"))
    GenerationSettings({stage: Sampling(max_new_tokens=8) for stage in STAGES}, DecoderSampling(steps=1)).save(folder)
    return folder


@pytest.fixture
def held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two dialogs of one exchange each, beside a folder of recordings; the working directory holds them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("usdm.asr.pocketsphinx.PocketSphinxRecogniser", Recogniser)
    random = np.random.default_rng(0)
    rows = []
    for dialog in ("a", "b"):
        for turn, (role, text) in enumerate((("user", "hello there"), ("agent", "hello"))):
            audio = f"{dialog}{turn}.wav"
            soundfile.write(audio, random.uniform(-0.5, 0.5, 8000), 16_000)
            rows.append(
                {"id": f"{dialog}{turn}", "audio": audio, "speaker": "noise", "role": role, "dialog": dialog}
                | {"turn": turn, "split": "test", "text": text, "duration": 0.5, "sample_rate": 16_000}
            )
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def evaluate(bundle: Path, *arguments: str) -> int:
    return main(["evaluate", f"model.name={bundle}", "held_out=.", "output_dir=scores", *arguments])


def test_a_scorecard_is_printed_and_written(bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(bundle, "recordings=[.]") == 0
    told = capsys.readouterr().out
    assert "transcript WER" in told and "written to scores" in told and held_out.name in told
    assert json.loads((held_out / "scores/scorecard.json").read_text())["items"] == 2
    assert {path.name for path in held_out.iterdir() if path.is_dir()} == {"scores"}  # no folder of Hydra's


def test_recordings_can_be_transcribed_alone_and_by_speaker(
    bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(bundle, "dialogs=false", "recordings=[.]", "+where.role=user", "by=speaker") == 0
    told = capsys.readouterr().out
    assert "speaker" in told and "reply METEOR" not in told
    assert not (held_out / "scores/scorecard.json").exists()
    score = json.loads((held_out / f"scores/{held_out.name}.json").read_text())
    assert score["groups"]["noise"]["items"] == 2


def test_services_and_refusals_are_on_the_scorecard(
    bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"dialog": name, "split": split, "services": ["Hotels_1"], "turns": [{"role": "agent", "text": "hello"}]}
        for name, split in (("a", "test"), ("b", "test"), ("c", "train"))
    ]
    (held_out / "dialogs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(bundle, "dialogs_file=dialogs.jsonl", "refusal_phrase=hello") == 0
    assert "random reply of the same service" in capsys.readouterr().out
    scorecard = json.loads((held_out / "scores/scorecard.json").read_text())
    assert scorecard["random_reply_of_the_same_service_rouge_l"] == scorecard["refused_references"] == 1


def test_a_failed_item_makes_the_run_fail(bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (held_out / "b0.wav").write_bytes(b"not sound")
    assert evaluate(bundle) == 1
    told = capsys.readouterr()
    assert "1 items failed" in told.err
    assert json.loads((held_out / "scores/scorecard.json").read_text())["items"] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["held_out=absent"], "absent"),
        (["output_dir=a0.wav/scores"], "a0.wav"),
        (["synthesiser=robot"], "robot"),
        (["training_corpus=absent"], "absent"),
        (["dialogs_file=absent"], "absent"),
        (["recordings=[absent]"], "absent"),
        (["recordings=[.]", "+where.split=dev"], "split=dev"),
        (["recordings=[.]", "by=accent"], "accent"),
        (["dialogs=false"], "nothing is left"),
        (["limit=none"], "full_key: limit"),
    ],
)
def test_bad_input_ends_before_the_model_is_loaded(
    arguments: list[str], told: str, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "model.name=absent", "held_out=.", "output_dir=scores", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("usdm evaluate: ") and told in printed
    assert "embedded model" not in printed
