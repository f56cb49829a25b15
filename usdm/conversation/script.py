"""What a person does in a measured conversation: asks, hesitates, interrupts, says "mhm"; in noise, with echo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from usdm.audio import resample
from usdm.data.speech_corpus import Utterance
from usdm.turns import SAMPLE_RATE
from usdm.turns.moments import PauseLengths, noise, places_of_pauses, with_pauses
from usdm.types import InputError

WIRE_RATE = 24_000  # Hz, of PCM16 in the Realtime protocol

Kind = Literal["turn", "interruption", "backchannel"]


@dataclass(frozen=True)
class Act:
    """One thing that the person says."""

    kind: Kind
    sound: Tensor  # (T,) float32 at 24 kHz
    pauses: tuple[tuple[float, float], ...] = ()  # seconds into the sound, without speech
    after: float = 0.5  # seconds: a turn, after the reply before has ended; anything else, after it has begun

    @property
    def seconds(self) -> float:
        return len(self.sound) / WIRE_RATE


@dataclass(frozen=True)
class Room:
    """What else the microphone hears."""

    noise_level: float = 0.0  # root mean square of white noise, of full scale
    echo_decibels: float | None = None  # of the reply, as it comes back; None: none comes back
    echo_delay: float = 0.1  # seconds


@dataclass(frozen=True)
class Script:
    id: str
    acts: tuple[Act, ...]
    room: Room = Room()


@dataclass(frozen=True)
class Habits:
    """Of the people who talk: shares of turns. Raises InputError for what is no share."""

    turns: int = 3  # of a conversation
    pause_share: float = 0.4  # with a pause within
    interruption_share: float = 0.3  # said while the reply before is played
    backchannel_share: float = 0.2  # of replies, met with a "mhm"
    interruption_after: tuple[float, float] = (0.3, 1.2)  # seconds of the reply
    noise_levels: Sequence[float] = (0.0, 0.003)
    echo_decibels: Sequence[float | None] = (None, -30.0)

    def __post_init__(self) -> None:
        for name in ("pause_share", "interruption_share", "backchannel_share"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InputError(f"{name}={value}: give a share from 0 to 1")
        if self.turns < 1:
            raise InputError(f"turns={self.turns}: a conversation has 1 or more")


def draw_scripts(
    turns: Sequence[Utterance],
    backchannels: Sequence[Tensor],
    number: int,
    habits: Habits,
    lengths: PauseLengths,
    seed: int,
) -> list[Script]:
    """`number` conversations of recorded turns. `backchannels`: (T,) each, float32 at 24 kHz.

    Conversation i depends on the seed and on i alone. Raises InputError without turns.
    """
    if not turns:
        raise InputError("there is no turn to say: give a corpus with turns of users")
    return [_script(i, turns, backchannels, habits, lengths, np.random.default_rng([seed, i])) for i in range(number)]


def _script(
    index: int,
    turns: Sequence[Utterance],
    backchannels: Sequence[Tensor],
    habits: Habits,
    lengths: PauseLengths,
    random: np.random.Generator,
) -> Script:
    acts: list[Act] = []
    for place in range(habits.turns):
        utterance = turns[int(random.integers(len(turns)))]
        sound, pauses = _said(utterance, lengths if random.random() < habits.pause_share else None, random)
        if place and random.random() < habits.interruption_share:
            acts.append(Act("interruption", sound, pauses, float(random.uniform(*habits.interruption_after))))
        else:
            acts.append(Act("turn", sound, pauses, float(random.uniform(0.3, 1.0))))
        if backchannels and random.random() < habits.backchannel_share:
            short = backchannels[int(random.integers(len(backchannels)))]
            acts.append(Act("backchannel", short, (), float(random.uniform(*habits.interruption_after))))
    room = Room(
        habits.noise_levels[int(random.integers(len(habits.noise_levels)))],
        habits.echo_decibels[int(random.integers(len(habits.echo_decibels)))],
        float(random.uniform(0.02, 0.2)),
    )
    return Script(f"conversation-{index:03d}", tuple(acts), room)


def _said(
    utterance: Utterance, lengths: PauseLengths | None, random: np.random.Generator
) -> tuple[Tensor, tuple[tuple[float, float], ...]]:
    """The turn up to its last speech, at 24 kHz, and where its drawn pause lies."""
    sound = utterance.read(SAMPLE_RATE).samples
    ends = [word.end for word in utterance.words] or places_of_pauses(sound)
    after = [(len(ends) - 1, 0)]
    pauses: tuple[tuple[float, float], ...] = ()
    if lengths is not None and len(ends) > 1:
        place, pause = int(random.integers(len(ends) - 1)), lengths.draw(random)
        after = [(place, pause), *after]
        pauses = ((ends[place], ends[place] + pause / SAMPLE_RATE),)
    whole = with_pauses(sound, ends, after, random)
    return resample(whole, SAMPLE_RATE, WIRE_RATE), pauses


def background(room: Room, samples: int, random: np.random.Generator) -> Tensor:
    """(samples,) float32 of the room's noise."""
    return noise(samples, room.noise_level, random) if room.noise_level else torch.zeros(samples)
