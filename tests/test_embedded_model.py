"""The model that ships inside the package, as a newcomer meets it."""

from __future__ import annotations

import json
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import torch

import usdm
from data_prep.augment import SAMPLE_RATE, draw_noise
from data_prep.embedded_model.small_talk import INTENTS
from usdm.asr.pocketsphinx import PocketSphinxRecogniser
from usdm.audio import read_audio
from usdm.chain import bundle_folder, embedded_models
from usdm.cli.main import main
from usdm.evaluation import read_held_out
from usdm.evaluation.recordings import read_recordings
from usdm.metrics.text import scored_words
from usdm.types import InputError, Turn, Waveform

ASSETS = Path(usdm.__file__).parent / "assets"
SHIPPED_AT_MOST = 40e6  # bytes of weights


@pytest.fixture(scope="module")
def pipeline() -> usdm.SpokenDialogPipeline:
    return usdm.SpokenDialogPipeline.from_pretrained("tiny")


@pytest.fixture(scope="module")
def question() -> Waveform:
    return read_audio(ASSETS / "question.wav")


def words(text: str) -> str:
    return " ".join(scored_words(text))


def test_the_shipped_question_is_heard_and_answered(pipeline: usdm.SpokenDialogPipeline, question: Waveform) -> None:
    reply = pipeline.respond(question.samples, question.sample_rate)
    assert "restaurant" in (reply.user_text or "")
    assert len((reply.agent_text or "").split()) >= 2
    assert reply.truncated == ()
    assert reply.waveform is not None and reply.agent_units is not None
    seconds = len(reply.waveform) / reply.sample_rate
    assert seconds == pytest.approx(len(reply.agent_units) / pipeline.parts.units.unit_rate, abs=0.05)
    assert 0.5 < seconds < 8
    (said,) = PocketSphinxRecogniser()([Waveform(reply.waveform, reply.sample_rate)])
    assert jiwer.wer(words(reply.agent_text or ""), words(said)) <= 0.5
    again = pipeline.respond(question.samples, question.sample_rate)
    assert again.waveform is not None and torch.equal(again.waveform, reply.waveform)


def test_held_out_users_are_understood_as_far_as_the_card_says(pipeline: usdm.SpokenDialogPipeline) -> None:
    items = read_held_out(ASSETS / "held_out")[:30]
    truth, heard = [], []
    for item in items:
        sound = read_audio(item.user.audio)
        reply = pipeline.respond(sound.samples, sound.sample_rate, history=item.history, speak=False)
        truth.append(words(item.user.text or ""))
        heard.append(words(reply.user_text or ""))
    assert jiwer.wer(truth, heard) <= 0.25


def test_a_recording_survives_its_units(pipeline: usdm.SpokenDialogPipeline) -> None:
    recogniser = PocketSphinxRecogniser()
    truth, heard = [], []
    for item in read_held_out(ASSETS / "held_out")[:8]:
        sound = read_audio(item.agent.audio)
        truth.append(words(item.agent.text or ""))
        heard.append(words(recogniser([pipeline.resynthesize(sound.samples, sound.sample_rate)])[0]))
    assert jiwer.wer(truth, heard) <= 0.3


def test_typed_turns_and_history(pipeline: usdm.SpokenDialogPipeline) -> None:
    history = [Turn("user", "i want to find a restaurant."), Turn("agent", "what city should i search in?")]
    reply = pipeline.respond(text="san jose please.", history=history, speak=False)
    assert reply.agent_text and reply.waveform is None and reply.user_units is None


def test_people_write_as_they_do(pipeline: usdm.SpokenDialogPipeline) -> None:
    """Capitals, digits, times, prices, accents and line breaks are read as the training text was written."""
    for written, spoken in (
        ("Book a table for 2 at 7:30 PM, $50.", "book a table for two at seven thirty p m, fifty dollars."),
        ("I NEED A HOTEL", "i need a hotel."),
        ("what's the weather in San José?", "what's the weather in san jose?"),
        ("hello\nagent\nyes", "hello agent yes."),
    ):
        reply = pipeline.respond(text=written, speak=False)
        assert reply.user_text == written  # as it was typed
        assert reply.agent_text == pipeline.respond(text=spoken, speak=False).agent_text
    said = pipeline.respond(text="hello", reply="It's $50 at 7:30 PM.")
    spoken = pipeline.respond(text="hello", reply="it's fifty dollars at seven thirty p m.")
    assert said.agent_text == "It's $50 at 7:30 PM."
    assert said.agent_units is not None and said.agent_units.equal(spoken.agent_units)
    with pytest.raises(InputError, match="not 안 녕"):
        pipeline.respond(text="안녕")


@pytest.mark.parametrize("intent", ["greeting", "how_are_you", "name", "ability", "thanks", "goodbye"])
def test_small_talk_is_answered_with_small_talk(pipeline: usdm.SpokenDialogPipeline, intent: str) -> None:
    users, agents = INTENTS[intent]
    for text in (users[0], users[-1]):  # the last one is kept out of training
        assert pipeline.respond(text=text, speak=False).agent_text in agents


def test_noise_is_not_understood(pipeline: usdm.SpokenDialogPipeline) -> None:
    answers = []
    for seed in range(5):
        noise = torch.from_numpy(draw_noise(np.random.default_rng(seed)).astype(np.float32) / 32768)
        answers.append(pipeline.respond(noise, SAMPLE_RATE, speak=False).agent_text or "")
    assert sum("did not understand" in answer for answer in answers) >= 4


def test_a_reply_that_is_hardly_spoken_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["respond", "text=what can you do?", "output=reply.wav"]
    assert main([*asked, "sampling.speak.max_new_tokens=2"]) == 1
    assert "the model spoke 2 units for a reply of " in capsys.readouterr().err and Path("reply.wav").is_file()


def test_the_command_answers_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["respond", f"input={ASSETS / 'question.wav'}", "output=reply.wav", "trace=reply.json"]) == 0
    trace = json.loads((tmp_path / "reply.json").read_text())
    samples, sample_rate = soundfile.read(tmp_path / "reply.wav")
    assert sample_rate == trace["sample_rate"] == 22_050
    assert abs(samples).max() > 0.01
    assert set(trace["timings"]) == {"units", "transcribe", "respond", "speak", "decode", "vocode"}
    assert trace["agent_text"] in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reply.json", "reply.wav"]


@pytest.mark.parametrize("name", embedded_models())
def test_the_weights_are_small_and_every_part_has_a_card(name: str) -> None:
    folder = bundle_folder(name)
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= SHIPPED_AT_MOST
    for part in (".", "units", "llm", "decoder", "vocoder"):
        assert "cc-by-sa-4.0" in (folder / part / "README.md").read_text()


def test_the_model_from_people_answers_too(tmp_path: Path, question: Waveform) -> None:
    asked = ["respond", "model=people", f"input={ASSETS / 'question.wav'}", f"output={tmp_path / 'reply.wav'}"]
    assert main([*asked, f"trace={tmp_path / 'reply.json'}"]) == 0
    trace = json.loads((tmp_path / "reply.json").read_text())
    assert "restaurant" in trace["user_text"] and trace["truncated"] == []
    (said,) = PocketSphinxRecogniser()([read_audio(tmp_path / "reply.wav")])
    assert jiwer.wer(words(trace["agent_text"]), words(said)) <= 0.6


def test_strangers_are_understood_as_far_as_the_card_says(data_dir: Path) -> None:
    """Coffee orders by people whom the model never heard."""
    people = usdm.SpokenDialogPipeline.from_pretrained("people")
    recordings, _ = read_recordings(data_dir / "speech" / "picovoice_barista_test")
    truth, heard = [], []
    for recording in recordings[::3]:
        sound = read_audio(recording.audio)
        reply = people.respond(sound.samples, sound.sample_rate, speak=False)
        truth.append(words(recording.text or ""))
        heard.append(words(reply.user_text or ""))
    assert jiwer.wer(truth, heard) <= 0.1
