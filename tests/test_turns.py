"""Turn-taking: who speaks, and when it is whose turn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import usdm
from data_prep.embedded_model.flite import Flite
from usdm.audio import read_audio, resample
from usdm.chain import SpokenDialogPipeline
from usdm.cli.main import main
from usdm.evaluation.turn_detection import Rule, compare, hear, judge, spoken_turn
from usdm.evaluation.turn_sources import read_call
from usdm.turns import (
    PushToTalk,
    Silence,
    SpeechDismissed,
    SpeechStarted,
    SpeechStopped,
    SpeechSuspected,
    TurnDetection,
    TurnEvent,
    TurnHead,
    TurnHeadRule,
    VoiceActivity,
    turn_states,
)
from usdm.turns.moments import PauseLengths, moments, places_of_pauses, with_pauses
from usdm.types import InputError

QUESTION = Path(usdm.__file__).parent / "assets" / "question.wav"  # speech from 0.0 to 3.46 s
RATE = 16_000
NO_UNITS = torch.zeros(0, dtype=torch.int64)


def silence(seconds: float) -> Tensor:
    return torch.zeros(round(seconds * RATE))


@pytest.fixture(scope="module")
def question() -> Tensor:
    return read_audio(QUESTION).samples


@pytest.fixture(scope="module")
def pipeline() -> SpokenDialogPipeline:
    return SpokenDialogPipeline.from_pretrained("tiny")


def events_of(
    settings: TurnDetection, pipeline: SpokenDialogPipeline, sound: Tensor, block: int = 320, playing: bool = False
) -> list[TurnEvent]:
    detector = settings.detector(pipeline.parts.units, pipeline.folders["units"].parent)
    return [event for piece in sound.split(block) for event in detector.push(piece, NO_UNITS, playing)]


def test_speech_is_told_from_noise_and_a_tone(question: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    tone = 0.1 * torch.sin(torch.arange(2 * RATE) * 2 * torch.pi * 440 / RATE)
    for sound in (0.05 * torch.randn(2 * RATE, generator=generator), tone, silence(2)):
        assert max(VoiceActivity().push(sound)) < 0.4
    spoken = VoiceActivity().push(question)
    assert sum(probability > 0.5 for probability in spoken) > 0.85 * len(spoken)


def test_a_turn_begins_with_its_padding_and_ends_after_the_silence(
    question: Tensor, pipeline: SpokenDialogPipeline
) -> None:
    sound = torch.cat([silence(1), question, silence(1), question, silence(1)])
    started, stopped, again, over = events_of(Silence(), pipeline, sound)
    assert isinstance(started, SpeechStarted) and isinstance(stopped, SpeechStopped)
    assert started.sample == pytest.approx((1 - 0.3) * RATE, abs=0.1 * RATE)
    assert stopped.sample == pytest.approx(RATE + len(question) + 0.5 * RATE, abs=0.12 * RATE)
    assert again.sample >= stopped.sample and isinstance(over, SpeechStopped)
    shorter = events_of(replace(Silence(), silence_ms=200), pipeline, sound)[1]
    assert stopped.sample - shorter.sample == pytest.approx(0.3 * RATE, abs=512)


@pytest.mark.parametrize("block", [37, 512, 24_000])
def test_events_do_not_depend_on_the_blocks(question: Tensor, pipeline: SpokenDialogPipeline, block: int) -> None:
    sound = torch.cat([silence(0.3), question[: 2 * RATE], silence(0.8)])
    assert events_of(Silence(), pipeline, sound, block) == events_of(Silence(), pipeline, sound)


def test_while_a_reply_is_played_a_short_word_begins_no_turn(question: Tensor, pipeline: SpokenDialogPipeline) -> None:
    word = torch.cat([silence(0.5), question[: RATE // 4], silence(1)])
    assert len(events_of(Silence(), pipeline, word)) == 2
    suspected, dismissed = events_of(Silence(), pipeline, word, playing=True)
    assert isinstance(suspected, SpeechSuspected) and isinstance(dismissed, SpeechDismissed)
    turn = events_of(Silence(), pipeline, torch.cat([question, silence(1)]), playing=True)
    assert [type(event) for event in turn] == [SpeechSuspected, SpeechStarted, SpeechStopped]
    assert turn[0].sample < 0.25 * RATE


def test_push_to_talk_finds_nothing(question: Tensor, pipeline: SpokenDialogPipeline) -> None:
    assert events_of(PushToTalk(), pipeline, torch.cat([question, silence(2)])) == []


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.5}, {"silence_ms": -1}, {"speech_ms": 90_000}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))}=.*"):
        Silence(**wrong)  # type: ignore[arg-type]


def test_pauses_come_after_the_words_that_they_are_put_after(question: Tensor) -> None:
    random = np.random.default_rng(0)
    paused = with_pauses(question, [1.0, 2.0, 3.0], [(0, 8_000), (2, 1_600)], random)
    assert len(paused) == 3 * RATE + 8_000 + 1_600
    assert paused[RATE : RATE + 8_000].abs().max() < 0.1 * question.abs().max()
    assert torch.equal(paused[RATE + 8_000 : RATE + 12_000], question[RATE : RATE + 4_000])
    whole, *cut = moments(question, [1.0, 2.0, 3.4], 5, PauseLengths(), random)
    assert whole.over and [each.over for each in cut] == [False, False]
    assert len(whole.sound) > 3.4 * RATE


def test_people_s_own_pauses_are_found(question: Tensor) -> None:
    sound = torch.cat([question[: int(1.3 * RATE)], silence(0.4), question[int(1.3 * RATE) :], silence(0.3)])
    *gaps, end = places_of_pauses(sound)
    assert any(gap == pytest.approx(1.3, abs=0.1) for gap in gaps)
    assert end == pytest.approx(0.4 + len(question) / RATE, abs=0.1)


@pytest.fixture(scope="module")
def heads(pipeline: SpokenDialogPipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One that always says yes, and one that always says no."""
    folder = tmp_path_factory.mktemp("heads")
    for name, bias in (("yes", 9.0), ("no", -9.0)):
        head = TurnHead.for_units(pipeline.parts.units, hidden=2)
        torch.nn.init.zeros_(head.outer.weight)
        torch.nn.init.constant_(head.outer.bias, bias)
        head.save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("yes", "no")}


def test_the_head_ends_a_turn_early_or_lets_it_go_on(
    question: Tensor, pipeline: SpokenDialogPipeline, heads: dict[str, str]
) -> None:
    sound = torch.cat([question[: int(1.3 * RATE)], silence(0.7), question[int(1.3 * RATE) :], silence(2)])
    yes = events_of(TurnHeadRule(head=heads["yes"]), pipeline, sound)
    assert [type(event) for event in yes] == [SpeechStarted, SpeechStopped] * 2
    assert yes[1].sample == pytest.approx(1.5 * RATE, abs=0.15 * RATE)
    _, stopped = events_of(TurnHeadRule(head=heads["no"]), pipeline, sound, block=5000)
    end = len(sound) - 2 * RATE
    assert stopped.sample == pytest.approx(end + 1.5 * RATE, abs=0.12 * RATE)


@pytest.mark.system_packages("flite")
@pytest.mark.parametrize("voice", ["slt", "awb"])  # awb was never learnt from
def test_the_embedded_head_lets_a_hesitating_person_finish(voice: str, pipeline: SpokenDialogPipeline) -> None:
    spoken = Flite(voice).speak("i would like to book a table for two.")
    sound = resample(torch.from_numpy(spoken.samples).float() / 32768, spoken.sample_rate, RATE)
    ends = [word.end for word in spoken.words]
    hesitating = with_pauses(sound, ends, [(3, 14_000), (len(ends) - 1, 32_000)], np.random.default_rng(0))
    assert len(events_of(Silence(), pipeline, hesitating)) == 4  # "i would like to", and then "book a table for two"
    _, stopped = events_of(TurnHeadRule(), pipeline, hesitating)
    assert stopped.sample == pytest.approx(len(hesitating) - 32_000 + 0.25 * RATE, abs=0.2 * RATE)


def test_a_head_of_other_units_or_none_is_refused(
    pipeline: SpokenDialogPipeline, heads: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="this model has no turn head.*turn_detection=silence"):
        TurnHeadRule().detector(pipeline.parts.units, tmp_path)
    config = Path(heads["yes"]) / "config.json"
    (tmp_path / "config.json").write_text(config.read_text().replace(pipeline.parts.units.identity, "other"))
    with pytest.raises(InputError, match="learnt with the units of centroids other"):
        TurnHeadRule(head=str(tmp_path)).detector(pipeline.parts.units, tmp_path)
    for wrong in ({"over": 1.0}, {"long_ms": 100}, {"short_ms": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TurnHeadRule(**wrong)  # type: ignore[arg-type]


def test_states_do_not_depend_on_the_batch(question: Tensor, pipeline: SpokenDialogPipeline) -> None:
    units = pipeline.parts.units
    together = turn_states(units, [question, question[:RATE]])
    assert torch.allclose(together[1], turn_states(units, [question[:RATE]])[0], atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_rules_are_judged_on_the_pauses_that_were_heard(question: Tensor) -> None:
    lengths = PauseLengths(median=1.0, spread=0.0)
    turns = [
        spoken_turn(f"turn-{i}", f"speaker-{i}", question, [1.3, 3.4], i, lengths, np.random.default_rng(i))
        for i in (0, 1)
    ]
    assert [turn.pauses for turn in turns] == [0, 1]
    # A head that knows: the turn is over once more than the first word was heard.
    heard = [hear(turn, Silence(), lambda sound: float(len(sound) > 2.6 * RATE), 200) for turn in turns]
    (pause,) = [pause for pause in heard[1].inner if pause.samples > 0.8 * RATE]
    assert pause.samples == pytest.approx(RATE, abs=0.2 * RATE) and pause.over == 0.0
    short, long, head = Rule(400, 400, 0.0), Rule(1200, 1200, 0.0), Rule(200, 1200, 0.5)
    assert [rule.cuts(heard[1]) for rule in (short, long, head)] == [True, False, False]
    assert head.delay(heard[1]) == pytest.approx(0.25, abs=0.12)
    found = compare(judge(head, heard, 0), [judge(rule, heard, 0) for rule in (short, long)], heard, 0)
    assert found.as_fast.rule == short and found.fewer_cut_off.gap == -1.0
    assert found.as_safe is not None and found.as_safe.rule == long


def test_a_call_s_turns_are_over_when_the_other_side_speaks(question: Tensor, tmp_path: Path) -> None:
    piece = question[: int(1.2 * RATE)]
    caller = torch.cat([piece, silence(1), piece, silence(4)])
    agent = torch.cat([silence(5), piece, silence(1.2)])
    for name, sound in (("caller", caller), ("agent", agent)):
        soundfile.write(tmp_path / f"{name}.flac", sound.numpy(), RATE)
    rows = [{"id": name, "audio": f"{name}.flac"} for name in ("caller", "agent")]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_call(tmp_path)
    assert (first.speaker, second.speaker) == ("caller", "agent")
    assert first.pauses >= 1 and first.end > 3 * RATE and len(first.sound) == first.end + RATE


def corpus(folder: Path, question: Tensor) -> Path:
    """Turns of both splits with word times."""
    folder.mkdir()
    soundfile.write(folder / "a.flac", question.numpy(), RATE)
    words = [["is", 0.2, 1.3], ["it", 1.3, 2.2], ["so", 2.2, 3.4]]
    fields = {"audio": "a.flac", "speaker": "a", "role": "user", "turn": 0, "text": "is it so", "words": words}
    rows = [
        fields | {"id": f"{split}-{i}", "dialog": f"{split}-{i}", "split": split, "duration": 3.5}
        for split in ("train", "dev")
        for i in range(3)
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_head_is_trained_and_compared_by_verbs(
    question: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("usdm.cli.main.os.getcwd", lambda: str(tmp_path))
    spoken = corpus(tmp_path / "spoken", question)
    bundle = Path(usdm.__file__).parent / "models" / "tiny"
    arguments = [f"unit_extractor={bundle / 'units'}", f"corpora=[{spoken}]", "output_dir=head", "steps=60"]
    assert main(["train_turn_head", *arguments]) == 0
    assert "AUC" in capsys.readouterr().out
    assert main(["train_turn_head", *arguments, "steps=61"]) == 2  # another head lies there
    rule = ["turn_detection.head=head/model", "thresholds=[0.5]", "long_ms=[1500]", "silence_ms=[200,1500]"]
    assert main(["compare_turn_detection", f"corpora=[{spoken}]", "split=dev", *rule, "output_dir=compared"]) == 0
    (table,) = json.loads((tmp_path / "compared" / "turn_detection.json").read_text())["sets"]
    assert table["turns"] == table["with_pause"] == 3
    fast, safe = table["silence"]
    assert fast["cut_off"]["mean"] == 1.0 > safe["cut_off"]["mean"]
    assert safe["median_delay"] - fast["median_delay"] == pytest.approx(1.28, abs=0.04)
    assert (tmp_path / "compared" / "turn_detection.png").is_file()
