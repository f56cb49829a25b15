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
from usdm.evaluation.models import Contender, compare_models

from usdm.asr.recogniser import RememberingRecogniser
from usdm.chain import DecoderSampling, GenerationSettings, SpokenDialogPipeline
from usdm.cli.main import main
from usdm.evaluation.baselines import MOST_FREQUENT, RANDOM, SAME_SERVICE, baseline_replies, read_dialogs_file
from usdm.metrics.text import meteor, rouge_l, word_errors
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


def contenders(bundle: Path, *chains: str | None) -> list[Contender]:
    return [
        Contender(str(chain), lambda: SpokenDialogPipeline.from_pretrained(bundle), chain) for chain in (None, *chains)
    ]


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def test_figures_are_means_over_items_and_gaps_are_paired(bundle: Path, held_out: Path) -> None:
    table = compare_models(contenders(bundle, "units_to_units"), held_out, Recogniser(), "out", seed=3)
    whole, direct, *baselines = table.rows
    assert [row.name for row in table.rows] == ["None", "units_to_units", MOST_FREQUENT, RANDOM]
    found, other = rows_of(held_out / "out/None"), rows_of(held_out / "out/units_to_units")
    assert [row["id"] for row in found] == [row["id"] for row in other] == ["a0", "a2", "b0", "c0"]
    errors = sum((word_errors(row["user_text"], row["transcript"]) for row in found), start=word_errors("", ""))
    assert whole.rates["transcript"] is not None and whole.rates["transcript"].counts == errors
    assert whole.means["meteor"] is not None and whole.means["heard_rouge_l"] is not None
    assert whole.means["meteor"].mean == pytest.approx(np.mean([meteor(r["reference"], r["reply"]) for r in found]))
    heard = [[rouge_l(r["reference"], r["reply_recognised"]) for r in rows] for rows in (found, other)]
    assert whole.means["heard_rouge_l"].mean == pytest.approx(np.mean(heard[0]))
    gap = direct.gaps["heard_rouge_l"]
    assert gap is not None and gap.gap == pytest.approx(np.mean(heard[1]) - np.mean(heard[0]))
    assert gap.low <= gap.gap <= gap.high
    assert direct.rates == {"transcript": None, "spoken_reply": None}  # it writes no text
    assert direct.means["meteor"] is None and direct.gaps["meteor"] is None and direct.gaps["transcript"] is None
    assert direct.means["answer_seconds"] is not None and direct.means["answer_seconds"].mean > 0
    for baseline in baselines:
        assert baseline.means["meteor"] is not None and baseline.means["heard_meteor"] is None
        assert baseline.gaps["meteor"] is not None and baseline.items == 4
    assert all(gap is None or gap.gap == gap.low == gap.high == 0 for gap in whole.gaps.values())
    assert table.facts["models"]["None"]["chain"] == "multi_step"


def test_a_failed_item_is_counted_and_left_out_of_the_pairs(bundle: Path, held_out: Path) -> None:
    good = compare_models(contenders(bundle, "units_text_units"), held_out, Recogniser(), "good")
    (held_out / "b0.wav").write_bytes(b"not sound")
    table = compare_models(contenders(bundle, "units_text_units"), held_out, Recogniser(), "out")
    assert table.failed == 2
    assert [(row.items, row.failed) for row in table.rows] == [(3, 1), (3, 1), (4, 0), (4, 0)]
    assert "3 (1 failed)" in table.to_markdown()
    scores = [row["scores"]["meteor"] for row in rows_of(held_out / "good/None") if row["id"] != "b0"]
    assert table.rows[0].means["meteor"] is not None
    assert table.rows[0].means["meteor"].mean == pytest.approx(np.mean(scores))
    assert good.failed == 0


def test_what_is_there_is_not_computed_again(bundle: Path, held_out: Path) -> None:
    first = compare_models(contenders(bundle, "units_to_units"), held_out, Recogniser(), "out")
    before = Recogniser.heard
    again = compare_models(contenders(bundle, "units_to_units"), held_out, Recogniser(), "out")
    assert Recogniser.heard == before
    assert again.rows == first.rows


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


def test_dialogs_that_do_not_fit_are_refused(bundle: Path, held_out: Path) -> None:
    path = held_out / "dialogs.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(InputError, match="no dialog a"):
        compare_models(contenders(bundle), held_out, Recogniser(), "out", service_replies=read_dialogs_file(path))
    path.write_text("\n".join(lines[:3]))
    with pytest.raises(InputError, match="no agent turn of split train"):
        read_dialogs_file(path)
    path.write_text('{"dialog": "a"}\n')
    with pytest.raises(InputError, match="line 1: not a dialog"):
        read_dialogs_file(path)


# The verb


def test_the_table_is_printed_and_written(
    bundle: Path, other_llm: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"+models.scratch.llm={other_llm}", "+models.short.chain=units_text_units", "limit=2"]
    arguments += ["dialogs_file=dialogs.jsonl", "output_dir=out", "held_out=."]
    assert main(["compare_models", f"model.name={bundle}", *arguments]) == 0
    told = capsys.readouterr().out
    assert "| difference to model" in told and "written to out" in told
    written = json.loads((held_out / "out/models.json").read_text())
    names = ["model", "scratch", "short", MOST_FREQUENT, RANDOM, SAME_SERVICE]
    assert [row["name"] for row in written["rows"]] == names
    models = written["facts"]["models"]
    assert [models[name]["chain"] for name in names[:3]] == ["multi_step", "units_to_units", "units_text_units"]
    assert models["model"]["model"] == models["short"]["model"] != models["scratch"]["model"]
    assert models["scratch"]["generation"] == models["model"]["generation"]  # the bundle's stays
    assert (held_out / "out/models.md").read_text() in told
    assert {path.name for path in (held_out / "out").iterdir()} >= {"model", "scratch", "short"}


def test_a_sweep_s_table_has_the_figures_and_its_sweeper_the_first(bundle: Path, held_out: Path) -> None:
    assert main(["compare_models", "-m", f"model.name={bundle}", "held_out=.", "limit=1,2", "output_dir=swept"]) == 0
    one, two = json.loads((held_out / "swept/sweep/limit.json").read_text())
    assert list(one["figures"])[0] == "model transcript WER" and one["figures"] != two["figures"]
    written = json.loads((Path(two["folder"]) / "models.json").read_text())["rows"][0]
    assert two["figures"]["model transcript WER"] == written["rates"]["transcript"]["rate"]
    assert two["figures"]["model METEOR"] == written["means"]["meteor"]["mean"]
    assert not any(name.startswith(MOST_FREQUENT) for name in two["figures"])


def test_a_failed_item_makes_the_run_fail(bundle: Path, held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (held_out / "b0.wav").write_bytes(b"not sound")
    assert main(["compare_models", f"model.name={bundle}", "held_out=.", "output_dir=out"]) == 1
    assert "1 items failed" in capsys.readouterr().err
    assert json.loads((held_out / "out/models.json").read_text())["rows"][0]["items"] == 3


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
