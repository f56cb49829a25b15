"""A server that talks to itself: whether its replies' echo interrupts them, and speech over them still gets through."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
import torchaudio.functional
from torch import Tensor

from usdm.serve.echo import EchoGuard, room
from usdm.turns import SpeechStarted, TurnDetector

RATE = 16_000  # Hz
BLOCK = 640  # samples that a client sends at once: 40 ms
LEAD = 0.5  # seconds before the reply
NOISE = 1e-4  # deviation of the microphone's own noise


@dataclass(frozen=True)
class Echo:
    """A way from the loudspeaker to the microphone."""

    level: float  # dB, of the echo's power relative to what is played
    delay: float  # seconds, from sending a sound to hearing it
    room: float  # seconds in which sound falls by 60 dB


@dataclass(frozen=True)
class EchoTrial:
    """One reply over one such way."""

    echo: Echo
    reply: int
    speech_level: float | None  # dB relative to the reply, of somebody who speaks over it; None: nobody does
    guarded: bool  # False: without the server's own measures
    interruptions: int  # turns that were found while the reply was played or had just ended
    reaction: float | None  # seconds from the beginning of speech to the first turn that was found after it


@dataclass(frozen=True)
class EchoReport:
    trials: tuple[EchoTrial, ...]

    def to_json(self) -> str:
        return json.dumps([asdict(trial) for trial in self.trials], indent=2) + "\n"

    def to_markdown(self) -> str:
        """One line for every level of the echo."""
        lines = [
            "| echo | self-interruptions without the guard | with it | speech over the reply gets through | "
            "median reaction |",
            "|---|---|---|---|---|",
        ]
        for level in dict.fromkeys(trial.echo.level for trial in self.trials):
            here = [trial for trial in self.trials if trial.echo.level == level]
            alone = [trial for trial in here if trial.speech_level is None]
            cells = [f"{level:g} dB", _self_interrupted(alone, False), _self_interrupted(alone, True)]
            spoken = [trial for trial in here if trial.speech_level is not None]
            reactions = sorted(trial.reaction for trial in spoken if trial.reaction is not None)
            middle = f"{reactions[len(reactions) // 2]:.2f} s" if reactions else ""
            lines.append("| " + " | ".join([*cells, f"{len(reactions)} of {len(spoken)}", middle]) + " |")
        return "\n".join(lines) + "\n"

    @property
    def self_interruptions(self) -> int:
        """Replies that interrupted themselves in spite of the guard."""
        return sum(trial.interruptions > 0 for trial in self.trials if trial.speech_level is None and trial.guarded)


def check_echo(
    replies: Sequence[Tensor],
    speech: Tensor,
    echoes: Sequence[Echo],
    detector: Callable[[], TurnDetector],
    speech_levels: Sequence[float] = (0.0,),
    seed: int = 0,
) -> EchoReport:
    """Play (t,) replies at 16 kHz back into the microphone over all `echoes`: alone, and under (s,) `speech`."""
    return EchoReport(tuple(_trials(replies, speech, echoes, detector, speech_levels, seed)))


def _trials(
    replies: Sequence[Tensor],
    speech: Tensor,
    echoes: Sequence[Echo],
    detector: Callable[[], TurnDetector],
    speech_levels: Sequence[float],
    seed: int,
) -> Iterator[EchoTrial]:
    for echo, (number, reply) in itertools.product(echoes, enumerate(replies)):
        for guarded in (False, True):
            found = list(_turns(reply, _echoed(reply, echo, seed), None, detector(), guarded, seed))
            yield EchoTrial(echo, number, None, guarded, len(found), None)
        for level in speech_levels:
            louder = speech * (reply.square().mean() / speech.square().mean()).sqrt() * 10 ** (level / 20)
            begins = LEAD + 0.4 * len(reply) / RATE
            found = list(_turns(reply, _echoed(reply, echo, seed), (begins, louder), detector(), True, seed))
            after = [at - begins for at in found if at > begins]
            yield EchoTrial(echo, number, level, True, len(found), after[0] if after else None)


def _turns(
    reply: Tensor,
    echo: Tensor,
    speech: tuple[float, Tensor] | None,
    detector: TurnDetector,
    guarded: bool,
    seed: int,
) -> Iterator[float]:
    """Seconds at which a turn is found, in a session whose reply is sent all at once after the lead."""
    length = round(LEAD * RATE) + max(len(reply), len(echo)) + RATE
    microphone = NOISE * torch.randn(length, generator=torch.Generator().manual_seed(seed))
    start = round(LEAD * RATE)
    microphone[start : start + len(echo)] += echo
    if speech is not None:
        begins = round(speech[0] * RATE)
        microphone[begins : begins + len(speech[1])] += speech[1][: length - begins]
    guard = EchoGuard(RATE)
    for first in range(0, length, BLOCK):
        block = microphone[first : first + BLOCK]
        if first <= start < first + BLOCK:
            guard.play(reply)
        suppressed = guard.push(block)
        events = detector.push(suppressed if guarded else block, torch.zeros(0, dtype=torch.int64), guard.is_playing)
        if any(isinstance(event, SpeechStarted) for event in events):
            yield (first + len(block)) / RATE


def _echoed(reply: Tensor, echo: Echo, seed: int) -> Tensor:
    heard = torchaudio.functional.fftconvolve(reply, room(echo.room, RATE, seed))
    heard = heard * (reply.square().sum() / heard.square().sum()).sqrt() * 10 ** (echo.level / 20)
    return torch.cat([torch.zeros(round(echo.delay * RATE)), heard])


def _self_interrupted(trials: Sequence[EchoTrial], guarded: bool) -> str:
    own = [trial for trial in trials if trial.guarded == guarded]
    return f"{sum(trial.interruptions > 0 for trial in own)} of {len(own)}"
