"""Turn-taking: who speaks, and when it is whose turn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import usdm
from usdm.audio import read_audio
from usdm.chain import SpokenDialogPipeline
from usdm.turns import PushToTalk, Silence, SpeechStarted, SpeechStopped, TurnDetection, TurnEvent, VoiceActivity
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


@pytest.mark.parametrize("block", [1, 511, 512, 24_000])
def test_events_do_not_depend_on_the_blocks(question: Tensor, pipeline: SpokenDialogPipeline, block: int) -> None:
    sound = torch.cat([silence(0.3), question[: 2 * RATE], silence(0.8)])
    assert events_of(Silence(), pipeline, sound, block) == events_of(Silence(), pipeline, sound)


def test_while_a_reply_is_played_a_short_word_begins_no_turn(question: Tensor, pipeline: SpokenDialogPipeline) -> None:
    word = torch.cat([silence(0.5), question[: RATE // 4], silence(1)])
    assert len(events_of(Silence(), pipeline, word)) == 2
    assert events_of(Silence(), pipeline, word, playing=True) == []
    assert len(events_of(Silence(), pipeline, torch.cat([question, silence(1)]), playing=True)) == 2


def test_push_to_talk_finds_nothing(question: Tensor, pipeline: SpokenDialogPipeline) -> None:
    assert events_of(PushToTalk(), pipeline, torch.cat([question, silence(2)])) == []


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.5}, {"silence_ms": -1}, {"speech_ms": 90_000}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))}=.*"):
        Silence(**wrong)  # type: ignore[arg-type]
