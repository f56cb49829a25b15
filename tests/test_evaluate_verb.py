"""`usdm evaluate` from the command line, on random weights and with a stand-in for the recogniser."""

from __future__ import annotations

import fcntl
import json
import shutil
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
    name = identity = "always the same"
    text = "hello"

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        return [self.text] * len(waveforms)


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
    assert "transcript_wer" in told and "written to scores" in told and held_out.name in told
    assert json.loads((held_out / "scores/scorecard.json").read_text())["items"] == 2
    assert {path.name for path in held_out.iterdir() if path.is_dir()} == {"scores"}  # no folder of Hydra's


def test_recordings_can_be_transcribed_alone_and_by_speaker(
    bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(bundle, "dialogs=false", "recordings=[.]", "+where.role=user", "by=speaker") == 0
    told = capsys.readouterr().out
    assert "speaker" in told and "reply_meteor" not in told
    assert not (held_out / "scores/scorecard.json").exists()
    score = json.loads((held_out / f"scores/{held_out.name}.json").read_text())
    assert score["groups"]["noise"]["items"] == 2


def test_the_same_weights_in_another_precision_hear_anew(bundle: Path, held_out: Path) -> None:
    path = held_out / "scores" / f"{held_out.name}.jsonl"
    keys = []
    for precision in ([], ["dtype=bfloat16"]):
        assert evaluate(bundle, "dialogs=false", "recordings=[.]", *precision) == 0
        keys.append({json.loads(line)["key"] for line in path.read_bytes().splitlines()})
    assert len(keys[0]) == len(keys[1]) == 4 and not keys[0] & keys[1]


def test_what_exists_so_far_is_scored(bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = ("dialogs=false", "recordings=[.]")
    assert evaluate(bundle, *alone, "so_far=true") == 2
    assert "has no result of this model" in capsys.readouterr().err
    assert evaluate(bundle, *alone) == 0
    capsys.readouterr()
    path = held_out / "scores" / f"{held_out.name}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # its last line is still being written
    with path.open("rb") as running:
        fcntl.flock(running, fcntl.LOCK_EX)  # as a run that is at work holds it
        done = path.read_bytes()
        assert evaluate(bundle, *alone, "so_far=true") == 0
        assert path.read_bytes() == done
    assert "1 not done yet" in capsys.readouterr().out
    score = json.loads((held_out / "scores" / f"{held_out.name}.json").read_text())
    assert (score["items"], score["unfinished"]) == (3, 1)


def test_services_and_refusals_are_on_the_scorecard(
    bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"dialog": name, "split": split, "services": ["Hotels_1"], "turns": [{"role": "agent", "text": "hello"}]}
        for name, split in (("a", "test"), ("b", "test"), ("c", "train"))
    ]
    (held_out / "dialogs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(bundle, "dialogs_file=dialogs.jsonl", "metric.refusals.phrase=hello") == 0
    assert "random reply of the same service" in capsys.readouterr().out
    scorecard = json.loads((held_out / "scores/scorecard.json").read_text())
    same_service = scorecard["details"]["baselines"]["random reply of the same service"]
    assert same_service["reply_rouge_l"]["value"] == scorecard["refused_references"] == 1


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
        (["refusal_phrase=no"], "metric.refusals.phrase"),
        (["asr=whisper", "asr.name=absent"], "absent"),
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


def test_what_was_predicted_is_scored_by_a_metric_and_a_judge_from_outside(
    bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (held_out / "own.py").write_text(
        "class Judge:\n"
        "    name = identity = 'own judge'\n"
        "    def __call__(self, waveforms):\n"
        "        return ['hello'] * len(waveforms)\n"
        "def letters(prediction, reference):\n"
        "    return {'letters': float(len(prediction.recognised or ''))}\n"
    )
    for group, target in (("asr", "own.Judge"), ("metric", "own.letters")):
        (held_out / "mine" / group).mkdir(parents=True)
        text = f"_target_: {target}\n" if group == "asr" else f"own: {{_target_: {target}, _partial_: true}}\n"
        (held_out / "mine" / group / "own.yaml").write_text(text)
    assert main(["predict", f"model.name={bundle}", "held_out=.", "output_dir=out"]) == 0
    assert main(["score", "predictions=out", "asr=own", "metric=[rouge_l,own]", "--config-dir=mine"]) == 0
    scores = json.loads((held_out / "out/scorecard.json").read_text())
    said = [
        row["audio"] is not None for row in map(json.loads, (held_out / "out/items.jsonl").read_text().splitlines())
    ]
    assert scores["letters"] == 5 * sum(said) / len(said) and "heard_reply_rouge_l" in scores
    assert scores["details"]["figures"]["letters"]["about"] == "own.letters" and "own judge" in capsys.readouterr().out


def test_a_gate_is_shut_where_something_got_worse(
    bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(bundle, "metric=[rouge_l]") == 0
    shutil.copytree(held_out / "scores", held_out / "worse")
    rows = [json.loads(line) for line in (held_out / "worse/items.jsonl").read_text().splitlines()]
    for row in rows:
        row["values"]["reply_rouge_l"] -= 0.5
    (held_out / "worse/items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["gate", "before=scores", "after=scores/../scores/."]) == 2  # the same folder twice
    assert main(["gate", "before=scores", "after=worse"]) == 1
    assert "1 of 2 figures got worse beyond noise:\n  reply_rouge_l: -0.500" in capsys.readouterr().err
    assert main(["gate", "before=worse", "after=scores"]) == 0
    assert main(["gate", "before=scores", "after=worse", "figures=[heard_reply_rouge_l]"]) == 0
    assert main(["gate", "before=scores", "after=worse", "figures=[bleu]"]) == 2
    capsys.readouterr()

    assert main(["compare_results", "scores", "worse"]) == 0
    assert "-0.500 (-0.500 to -0.500) *" in capsys.readouterr().out
    for name, value in (("unified", 9.0), ("separate", 20.5)):
        Path(name).mkdir()
        figures = {"perplexity": value, "low": value - 1, "high": value + 1}
        Path(name, "perplexity.json").write_text(json.dumps({"types": {"units": figures}}))
        Path(name, "perplexity.md").write_text("| type | perplexity |\n|---|---|\n| units | 1 |\n")
    assert main(["report", "scores", "worse", "unified", "separate", "output_dir=report"]) == 0
    told = " ".join((held_out / "report/report.md").read_text().split())
    assert "| unified | 9.00 (8.00 to 10.00) | | separate | 20.50 (19.50 to 21.50) |" in told
    page, tex = ((held_out / f"report/report.{kind}").read_text() for kind in ("html", "tex"))
    assert page.count("<audio") >= 4 and "data:image/svg+xml" in page and "side by side" in page
    assert (
        "worse - scores" in page and r"reply\_rouge\_l" in tex and tex.count(r"\toprule") == tex.count(r"\bottomrule")
    )
    assert main(["report", ".", "output_dir=report"]) == 2


def test_errors_are_attributed_to_stages(bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"model.name={bundle}", "held_out=.", "output_dir=broken"]
    Recogniser.text = "good bye"  # what is heard is wrong whatever is given: all errors are the judge's
    try:
        assert main(["attribute_errors", *arguments]) == 0
    finally:
        Recogniser.text = "hello"
    found = json.loads((held_out / "broken/attribution.json").read_text())
    shares = {name: stage["share"] for name, stage in found["stages"].items()}
    assert sum(shares.values()) == pytest.approx(1) and shares["decoded wrong"] == 0 and shares["judged wrong"] == 1
    assert len(found["worst"]) == found["items"] and found["worst"][0]["error"] == 1
    assert "judged wrong" in capsys.readouterr().out
    assert {path.name for path in (held_out / "broken").iterdir() if path.is_dir()} == {
        "own", "transcript", "reply", "units",
    }  # fmt: skip
