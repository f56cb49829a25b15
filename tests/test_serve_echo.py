"""The reply's own echo does not interrupt it, and somebody who speaks over it is heard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from usdm.audio import read_audio
from usdm.serve.echo import EchoGuard, room
from usdm.serve.echo_check import Echo, check_echo
from usdm.turns import Silence, TurnDetector
from usdm.units import UnitExtractor

ASSETS = Path(__file__).resolve().parents[1] / "usdm" / "assets"
RATE = 16_000


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return read_audio(ASSETS / "question.wav", RATE).samples


@pytest.fixture(scope="module")
def detector() -> Callable[[], TurnDetector]:
    units = UnitExtractor.from_pretrained(ASSETS.parent / "models" / "tiny" / "units")
    return lambda: Silence().detector(units, Path())


def test_an_echo_interrupts_nobody_and_speech_over_it_does(
    speech: Tensor, detector: Callable[[], TurnDetector]
) -> None:
    """Without the guard every one of these echoes interrupts."""
    reply = speech.flip(0)[: 3 * RATE]  # as loud and as restless as speech, and for the detector no less
    echoes = [Echo(-20.0, 0.15, 0.3), Echo(-8.0, 0.4, 0.2)]
    report = check_echo([reply], speech[: 2 * RATE], echoes, detector)
    unguarded = [trial for trial in report.trials if not trial.guarded]
    assert all(trial.interruptions for trial in unguarded) and len(unguarded) == 2
    assert report.self_interruptions == 0
    reactions = [trial.reaction for trial in report.trials if trial.speech_level is not None]
    assert all(reaction is not None and reaction < 1.5 for reaction in reactions)
    table = report.to_markdown()
    assert "| -20 dB | 1 of 1 | 0 of 1 | 1 of 1 |" in table and len(report.to_json()) > 100


def test_the_guard_learns_the_echo_and_lets_all_else_pass() -> None:
    random = torch.Generator().manual_seed(0)
    loud = (torch.rand(40, generator=random) > 0.4).repeat_interleave(RATE // 10)
    played = 0.1 * torch.randn(4 * RATE, generator=random) * loud
    guard = EchoGuard(RATE)
    before = 0.05 * torch.randn(RATE // 2, generator=random)
    assert torch.equal(torch.cat([guard.push(part) for part in before.split(700)]), before)
    guard.play(played)
    echo = torch.cat([torch.zeros(round(0.2 * RATE)), 0.1 * played])
    passed = [guard.push(part) for part in echo.split(640)]
    assert torch.cat(passed)[RATE // 2 :].abs().max() == 0
    assert guard._delay == pytest.approx(20, abs=3) and guard._gain == pytest.approx(-20, abs=2)
    while guard.is_playing:
        guard.push(torch.zeros(640))
    after = 0.05 * torch.randn(RATE, generator=random)
    heard = torch.cat([guard.push(part) for part in after.split(640)])
    assert heard[RATE // 2 :].abs().min() == after[RATE // 2 : len(heard)].abs().min()


def test_sound_that_is_held_has_no_echo_until_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EchoGuard, "_learn", lambda guard, frame: None)  # one level throughout is like no echo
    guard = EchoGuard(RATE)
    guard.play(torch.ones(2 * RATE))
    guard.push(torch.zeros(RATE))
    guard.hold()
    guard.play(torch.ones(RATE))
    somebody = 0.1 * torch.ones(3 * RATE)
    passed = guard.push(somebody)
    assert guard.is_playing and torch.equal(passed[RATE:], somebody[RATE : len(passed)])  # what rang has died down
    guard.resume()
    quieter = guard.push(somebody)[RATE // 5 : 2 * RATE]  # than the two seconds that waited
    assert quieter.abs().max() == 0
    guard.push(torch.zeros(2 * RATE))
    assert not guard.is_playing


def test_the_guard_keeps_no_more_than_it_needs() -> None:
    guard = EchoGuard(RATE)
    for _ in range(60):
        guard.play(torch.ones(RATE // 2))
        guard.push(torch.zeros(RATE))
    assert len(guard._heard) < 1000 and len(guard._sent) < 1000
    guard.stop()
    assert room(0.3, RATE).square().sum() == pytest.approx(1.0, abs=1e-4)
