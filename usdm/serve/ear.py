"""One session's input: samples in; turns out, heard by the model while they are spoken."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from usdm.audio.streaming import StreamingResampler
from usdm.chain import LanguageModelChain, Listener, Question, SpokenDialogPipeline
from usdm.serve.audio_formats import PCM16
from usdm.serve.echo import EchoGuard
from usdm.serve.engine_events import (
    EngineEvent,
    SoundHeld,
    SoundResumed,
    TurnHeard,
    TurnRefused,
    TurnStarted,
    TurnStopped,
)
from usdm.turns import SpeechDismissed, SpeechStarted, SpeechStopped, SpeechSuspected, TurnDetector
from usdm.types import InputError, Turn

HEARING_RATE = 16_000  # Hz, of detectors and of the guard
KEPT = 5.0  # seconds of sound that are kept in case that a turn has begun in them
PIECE = 640  # samples that are looked at together: less than any pause that ends a turn
EAGER = 0.1  # seconds of a pause after which the turn is made ready, in case that it ends: whoever decides waits longer


@dataclass(eq=False)
class _Turn:
    """One that is spoken."""

    listener: Listener
    num_samples: int = 0
    num_told: int = 0  # units that the detector knows
    ready: Question | None = None  # the turn up to the pause that it is in


class Ear:
    """For the engine's thread alone."""

    def __init__(
        self,
        pipeline: SpokenDialogPipeline,
        chain: LanguageModelChain,
        sample_rate: int,
        detector: TurnDetector | None,
        turn_seconds: float,
    ) -> None:
        """`sample_rate`: Hz, of what comes. `detector` None: the client says when a turn begins and ends."""
        self.guard = EchoGuard(HEARING_RATE)
        self._history: tuple[Turn, ...] = ()
        self._pipeline = pipeline
        self._chain = chain
        self.turn_seconds = turn_seconds
        self._heard = 0  # samples
        self._kept = torch.zeros(0)  # the latest of them
        self._turn: _Turn | None = None  # that goes on
        self._stopped: deque[_Turn] = deque()  # that wait for their commit
        self.listen_to(sample_rate, detector)

    def listen_to(self, sample_rate: int, detector: TurnDetector | None, holds: bool = False) -> None:
        """From now on, to sound at another rate or in another way. What was heard of a turn is forgotten.

        `holds`: whoever plays the replies stops them while it is not known whether somebody speaks over them.
        """
        self._resampler = StreamingResampler(sample_rate, HEARING_RATE)
        self._detector, self._holds = detector, holds
        self._detected_from = self._heard  # where the detector begins to count
        self.clear()

    @property
    def ready(self) -> Question | None:
        """The latest turn up to the pause that it is in, or that it ended with; None while somebody speaks."""
        turn = self._stopped[-1] if self._stopped else self._turn
        return None if turn is None else turn.ready

    def remember(self, history: tuple[Turn, ...]) -> None:
        """What the model reads before the turn, also before one that has begun."""
        self._history = history
        if self._turn is not None:
            self._turn.listener.history = history

    def hear(self, samples: Tensor) -> list[EngineEvent]:
        """(t,) float32."""
        new = self._resampler.push(samples)
        if self._detector is None:
            self._heard += len(new)
            if len(new):
                self._listen(new)
            return []
        return [event for piece in new.split(PIECE) for event in self._follow(piece, self._detector)]

    def commit(self, item_id: str) -> TurnHeard | TurnRefused:
        """What was made of the turn that stopped, or of the one that goes on, which ends."""
        turn = self._stopped.popleft() if self._stopped else self._turn
        if turn is self._turn:
            self.clear()
        if turn is None:
            return TurnRefused(item_id, "nobody speaks in what was appended: append audio first")
        try:
            return _heard(item_id, turn.ready or turn.listener.end())
        except InputError as error:
            return TurnRefused(item_id, str(error))

    def clear(self) -> None:
        """Forget what was heard of the turn that goes on."""
        self._turn = None
        self._kept = self._kept[:0]

    def _follow(self, new: Tensor, detector: TurnDetector) -> list[EngineEvent]:
        self._heard += len(new)
        self._kept = torch.cat([self._kept, new])[-round(KEPT * HEARING_RATE) :]
        if self._turn is not None:
            self._listen(new)
        events: list[EngineEvent] = []
        for event in detector.push(self.guard.push(new), self._new_units(), self.guard.is_playing):
            at = self._detected_from + event.sample
            if isinstance(event, SpeechStarted):
                since = min(len(self._kept), max(0, self._heard - at))
                self._turn = None
                self._listen(self._kept[len(self._kept) - since :])
                events.append(TurnStarted(_milliseconds(at)))
            elif isinstance(event, SpeechStopped) and self._turn is not None:
                events.append(self._stop(at))
            elif isinstance(event, SpeechSuspected) and self._holds:
                self.guard.hold()
                events.append(SoundHeld())
            elif isinstance(event, SpeechDismissed) and self._holds:
                self.guard.resume()
                events.append(SoundResumed())
        if self._turn is not None and self._turn.num_samples >= self.turn_seconds * HEARING_RATE:
            events.append(self._stop(self._heard))
        self._get_ready(detector.pause)
        return events

    def _stop(self, sample: int) -> TurnStopped:
        assert self._turn is not None
        self._stopped.append(self._turn)
        self._turn = None
        return TurnStopped(_milliseconds(sample))

    def _get_ready(self, pause: int) -> None:
        """While a pause lasts, encode and read what was said before it: if the turn ends, nothing of that is left."""
        if self._turn is None:
            return
        if pause < EAGER * HEARING_RATE:
            self._turn.ready = None
        elif self._turn.ready is None:
            self._turn.ready = self._turn.listener.so_far()

    def _listen(self, samples: Tensor) -> None:
        if self._turn is None:
            self._turn = _Turn(self._pipeline.listen(HEARING_RATE, history=self._history, chain=self._chain))
        self._turn.num_samples += len(samples)
        self._turn.listener.push(samples)

    def _new_units(self) -> Tensor:
        if self._turn is None:
            return torch.zeros(0, dtype=torch.int64)
        units = self._turn.listener.units
        new, self._turn.num_told = units[self._turn.num_told :], len(units)
        return new


def _heard(item_id: str, question: Question) -> TurnHeard:
    assert question.waveform is not None and question.units is not None
    samples, rate = question.waveform.samples, question.waveform.sample_rate
    return TurnHeard(item_id, question.units, PCM16.encode(samples), rate, round(1000 * len(samples) / rate))


def _milliseconds(sample: int) -> int:
    return round(1000 * sample / HEARING_RATE)
