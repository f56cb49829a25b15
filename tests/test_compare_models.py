"""Several models on the same held-out dialogs, on random weights and with a stand-in for the recogniser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_models import SHORT_TEMPLATE, build_random_bundle, save_random_llm

from usdm.asr.recogniser import RememberingRecogniser
from usdm.chain import DecoderSampling, GenerationSettings, SpokenDialogPipeline
from usdm.cli.main import main
from usdm.evaluation.baselines import MOST_FREQUENT, RANDOM, SAME_SERVICE, baseline_replies, read_dialogs_file
from usdm.types import InputError, Sampling, Waveform

STAGES = ("transcribe", "respond", "speak")
TURNS = {
    "a": (("find me a room", "which town?"), ("in paris", "it is booked")),
    "b": (("a ride please", "where to?"),),
    "c": (("wake me at six", "it is set"),),
}


class Recogniser:
    """Hears a number of words that goes with the length."""

    name = identity = "by length"
    heard = 0

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        Recogniser.heard += len(waveforms)
        words = ["it", "is", "booked", "where", "to"]
        return [" ".join(words[: 1 + waveform.samples.numel() // 4000]) for waveform in waveforms]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_random_bundle(tmp_path_factory.mktemp("bundle"))
    GenerationSettings({stage: Sampling(max_new_tokens=8) for stage in STAGES}, DecoderSampling(steps=1)).save(folder)
    return folder


@pytest.fixture(scope="module")
def other_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another language model of the same units, which was trained to answer without any text."""
    folder = tmp_path_factory.mktemp("other") / "llm"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        save_random_llm(folder, 20, replace(SHORT_TEMPLATE, layout="units_to_units"))
    return folder


@pytest.fixture
def held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four exchanges of three dialogs, and the dialogs that they come from; the working directory holds them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("usdm.asr.pocketsphinx.PocketSphinxRecogniser", Recogniser)
    random = np.random.default_rng(0)
    rows = []
    for name, exchanges in TURNS.items():
        for turn, text in enumerate(text for exchange in exchanges for text in exchange):
            audio, seconds = f"{name}{turn}.wav", 0.5 + 0.1 * turn
            soundfile.write(audio, random.uniform(-0.5, 0.5, int(16_000 * seconds)), 16_000)
            rows.append(
                {"id": f"{name}{turn}", "audio": audio, "speaker": "noise", "role": ("user", "agent")[turn % 2]}
                | {"dialog": name, "turn": turn, "split": "test", "text": text}
                | {"duration": seconds, "sample_rate": 16_000}
            )
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dialogs = [
        dialog("a", "test", ["Hotels_4"], "not a training reply"),
        dialog("b", "test", ["RideSharing_1"], "not a training reply"),
        dialog("c", "test", ["Alarm_1"], "not a training reply"),
        dialog("d", "train", ["Hotels_1"], "a room is booked", "for how many?"),
        dialog("e", "train", ["RideSharing_2", "Movies_1"], "where to?"),
        dialog("f", "dev", ["Alarm_1"], "of dev"),
    ]
    (tmp_path / "dialogs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dialogs))
    return tmp_path


def dialog(name: str, split: str, services: list[str], *replies: str) -> dict:
    turns = [turn for reply in replies for turn in ({"role": "user", "text": "x"}, {"role": "agent", "text": reply})]
    return {"dialog": name, "split": split, "services": services, "turns": turns}


def test_the_same_sound_is_recognised_once() -> None:
    recogniser = RememberingRecogniser(Recogniser())
    before, sound = Recogniser.heard, Waveform(torch.ones(9000), 16_000)
    assert recogniser([sound, Waveform(torch.ones(9000), 16_000)]) == recogniser([sound]) * 2 == ["it is booked"] * 2
    assert Recogniser.heard == before + 1
    recogniser([Waveform(torch.zeros(9000), 16_000), Waveform(torch.ones(9000), 8_000)])
    assert Recogniser.heard == before + 3


# Baselines


def test_a_reply_of_the_same_service_comes_from_its_training_dialogs(held_out: Path) -> None:
    services = read_dialogs_file("dialogs.jsonl")
    assert list(services.replies) == ["a room is booked", "for how many?", "where to?"]
    assert set(services.about("a")) == {"a room is booked", "for how many?"}  # of another hotel service
    assert services.about("b") == ["where to?"]
    assert services.about("c") == []  # no training dialog is about alarms
    drawn: dict[str, set[str]] = {name: set() for name in "abc"}
    for seed in range(30):
        replies = baseline_replies(["r"] * 3, ["a", "b", "c"], [], services, seed)[SAME_SERVICE]
        for name, reply in zip("abc", replies, strict=True):
            drawn[name].add(reply)
    assert drawn == {"a": {"a room is booked", "for how many?"}, "b": {"where to?"}, "c": set(services.replies)}


def test_dialogs_that_do_not_fit_are_refused(held_out: Path) -> None:
    path = held_out / "dialogs.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(InputError, match="no dialog a"):
        read_dialogs_file(path).check(["b", "a"])
    path.write_text("\n".join(lines[:3]))
    with pytest.raises(InputError, match="no agent turn of split train"):
        read_dialogs_file(path)
    path.write_text('{"dialog": "a"}\n')
    with pytest.raises(InputError, match="line 1: not a dialog"):
        read_dialogs_file(path)


# The verb


def test_models_chains_and_a_cascade_are_compared_on_the_same_items(
    bundle: Path, other_llm: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"+models.scratch.llm={other_llm}", "+models.short.chain=units_text_units", "limit=2"]
    arguments += ["+models.cascade.cascade=true", "dialogs_file=dialogs.jsonl", "output_dir=out", "held_out=."]
    assert main(["compare_models", f"model.name={bundle}", *arguments]) == 0
    told = capsys.readouterr().out
    assert "| cascade - model" in told and "written to out" in told
    written = json.loads((held_out / "out/models.json").read_text())
    names = ["model", "scratch", "short", "cascade"]
    assert [row["name"] for row in written["rows"]] == names
    assert [row["same_items"] for row in written["rows"]] == [3, 3, 3, 3]
    runs = {name: json.loads((held_out / f"out/{name}/run.json").read_text())["settings"] for name in names}
    assert [runs[name]["chain"] for name in names[:3]] == ["multi_step", "units_to_units", "units_text_units"]
    assert runs["model"]["model"] == runs["short"]["model"] != runs["scratch"]["model"]
    assert (held_out / "out/models.md").read_text() in told
    scores = json.loads((held_out / "out/model/scorecard.json").read_text())["details"]
    assert list(scores["baselines"]) == [MOST_FREQUENT, RANDOM, SAME_SERVICE]
    asked = Recogniser.heard
    assert main(["compare_models", f"model.name={bundle}", *arguments]) == 0
    assert Recogniser.heard == asked  # what is there is not done again
    figures = scores["figures"]
    cascade = written["rows"][3]
    assert cascade["figures"]["transcript_wer"]["value"] == figures["user_recordings_wer"]["value"]  # its ears judge
    assert figures["answer_seconds"]["value"] > 0 and cascade["gaps"]["answer_seconds"]["items"] == 3


def test_a_sweep_s_table_has_the_figures_and_its_sweeper_the_first(bundle: Path, held_out: Path) -> None:
    assert main(["compare_models", "-m", f"model.name={bundle}", "held_out=.", "limit=1,2", "output_dir=swept"]) == 0
    one, two = json.loads((held_out / "swept/sweep/limit.json").read_text())
    assert list(one["figures"])[0] == "model transcript_wer" and one["figures"] != two["figures"]
    written = json.loads((Path(two["folder"]) / "models.json").read_text())["rows"][0]
    assert two["figures"]["model transcript_wer"] == written["figures"]["transcript_wer"]["value"]
    assert not any(name.startswith(MOST_FREQUENT) for name in two["figures"])


def test_a_failed_item_makes_the_run_fail(bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (held_out / "b0.wav").write_bytes(b"not sound")
    assert main(["compare_models", f"model.name={bundle}", "held_out=.", "output_dir=out"]) == 1
    assert "1 items failed" in capsys.readouterr().err
    assert json.loads((held_out / "out/models.json").read_text())["rows"][0]["figures"]["transcript_wer"]["items"] == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["held_out=absent"], "absent"),
        (["dialogs_file=absent"], "absent"),
        (["+models.a.llm=absent"], "absent"),
        (["+models.a.chain=typed"], "units_to_units"),
        (["+models.a.chian=units_to_units"], "chian"),
        (["+models.a=units_to_units"], "say what is different"),
        (["+models.model.chain=units_to_units"], "choose another"),
        (["+models.a={}"], "the selected model itself"),
        (["model=random_small", "+models.a.llm=."], "no folder that it could replace"),
    ],
)
def test_bad_input_ends_before_a_model_is_loaded(
    arguments: list[str], told: str, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = [] if "model=random_small" in arguments else ["model.name=gone"]
    assert main(["compare_models", *name, "held_out=.", "output_dir=out", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("usdm compare_models: ") and told in printed
    assert "gone" not in printed


def test_a_bundle_whose_language_model_is_replaced_keeps_its_voices(
    bundle: Path, other_llm: Path, tmp_path: Path
) -> None:
    spoken = tmp_path / "bundle"
    shutil.copytree(bundle, spoken)
    (spoken / "voices").mkdir()
    soundfile.write(spoken / "voices/hoarse.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 16_000), 16_000)
    GenerationSettings(voice="hoarse").save(spoken)
    pipeline = SpokenDialogPipeline.from_pretrained(spoken, llm=other_llm)
    assert pipeline.voices == ["hoarse"] and pipeline.settings.voice == "hoarse"
    assert pipeline.folders["llm"] == other_llm and pipeline.folders["units"] == spoken / "units"
