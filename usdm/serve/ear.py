"""One session's input: samples in; turns out, heard by the model while they are spoken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from usdm.audio import resample
from usdm.audio.streaming import StreamingResampler
from usdm.chain import LanguageModelChain, Listener, SpokenDialogPipeline
from usdm.chain.stages import Question
from usdm.serve.audio_formats import PCM16
from usdm.serve.echo import EchoGuard
from usdm.serve.engine_events import EngineEvent, TurnHeard, TurnRefused, TurnStarted, TurnStopped
from usdm.serve.turn_taking import SpeechStarted, SpeechStopped, TurnDetector
from usdm.types import InputError, Turn

HEARING_RATE = 16_000  # Hz, of detectors and of the guard
KEPT = 3.0  # seconds of sound that are kept in case that speech has begun in them


@dataclass(frozen=True)
class EarSettings:
    """What a session's client may set."""

    sample_rate: int  # Hz, of what comes
    detector: Callable[[], TurnDetector] | None  # None: the client says when a turn ends
    prefix_ms: int  # of sound before speech that belong to the turn
    interrupt_after_ms: int  # of speech while a reply is played, below which it is no turn
    turn_seconds: float


class Ear:
    """For the engine's thread alone."""

    def __init__(
        self, pipeline: SpokenDialogPipeline, chain: LanguageModelChain, settings: EarSettings, heard: int = 0
    ) -> None:
        """`heard`: samples at 16 kHz that the session has had before."""
        self._pipeline = pipeline
        self._chain = chain
        self.settings = settings
        self._resampler = StreamingResampler(settings.sample_rate, HEARING_RATE)
        self._detector = None if settings.detector is None else settings.detector()
        self.guard = EchoGuard(HEARING_RATE)
        self._kept = torch.zeros(0)  # the latest samples
        self.heard = heard
        self._offset = heard  # where the detector began to count
        self._listener: Listener | None = None
        self._num_settled = 0  # units that the detector was given
        self._num_listened = 0  # samples of the turn
        self._start: int | None = None  # of speech that has not lasted long enough to be a turn, in samples
        self.history: tuple[Turn, ...] = ()

    def hear(self, samples: Tensor) -> list[EngineEvent]:
        """(t,) float32 at the settings' rate."""
        new = self._resampler.push(samples)
        if len(new) == 0:
            return []
        self.heard += len(new)
        self._kept = torch.cat([self._kept, new])[-round(KEPT * HEARING_RATE) :]
        if self._detector is None:
            self._listen(new)
            return []
        listening = self._listener is not None
        if listening:
            self._listen(new)
        suppressed = self.guard.push(new)
        events: list[EngineEvent] = []
        for event in self._detector.push(suppressed, self._new_units(), self.guard.is_playing):
            if isinstance(event, SpeechStarted):
                self._begin(self._offset + event.sample)
            else:
                events += self._stop(self._offset + event.sample)
        return events + self._confirm() + self._too_long()

    def commit(self, item_id: str) -> TurnHeard | TurnRefused:
        """End the turn."""
        listener, self._listener, self._start = self._listener, None, None
        if listener is None:
            return TurnRefused(item_id, "there is no speech in the buffer: append audio first")
        try:
            question = listener.end()
        except InputError as error:
            return TurnRefused(item_id, str(error))
        return _heard(item_id, question)

    def clear(self) -> None:
        """Forget what was heard of the turn."""
        self._listener, self._start = None, None
        self._kept = self._kept[:0]

    def take_over(self, other: Ear) -> None:
        """What of another ear's state outlives a change of settings."""
        self.guard, self.history = other.guard, other.history

    def _begin(self, sample: int) -> None:
        """Speech has begun: listen from a little before it."""
        self._start = sample
        first = sample - round(self.settings.prefix_ms * HEARING_RATE / 1000)
        since = min(len(self._kept), max(0, self.heard - first))
        self._listener = None
        self._listen(self._kept[len(self._kept) - since :])

    def _confirm(self) -> list[EngineEvent]:
        """The turn's start, once it is sure that it is one."""
        if self._start is None:
            return []
        if self.guard.is_playing and self.guard.speech_ms_since(self._start - self._offset) < self.settings.interrupt_after_ms:
            return []
        start, self._start = self._start, None
        return [TurnStarted(_milliseconds(start))]

    def _stop(self, sample: int) -> list[EngineEvent]:
        confirmed = self._confirm()
        if self._start is not None:  # a cough, or an "mhm" while the reply was played
            self.clear()
            return []
        return [*confirmed, TurnStopped(_milliseconds(sample))] if self._listener is not None else confirmed

    def _too_long(self) -> list[EngineEvent]:
        if self._listener is None or self._num_listened < self.settings.turn_seconds * HEARING_RATE:
            return []
        return [TurnStopped(_milliseconds(self.heard))]

    def _listen(self, samples: Tensor) -> None:
        if self._listener is None:
            self._listener = self._pipeline.listen(HEARING_RATE, history=self.history, chain=self._chain)
            self._num_settled = self._num_listened = 0
        self._listener.push(samples)
        self._num_listened += len(samples)

    def _new_units(self) -> Tensor:
        if self._listener is None:
            return torch.zeros(0, dtype=torch.int64)
        units = self._listener.units
        new, self._num_settled = units[self._num_settled :], len(units)
        return new


def _heard(item_id: str, question: Question) -> TurnHeard:
    assert question.waveform is not None and question.units is not None
    sound = resample(question.waveform.samples, question.waveform.sample_rate, PCM16.sample_rate)
    return TurnHeard(item_id, question.units, PCM16.encode(sound), PCM16.milliseconds(len(sound)))


def _milliseconds(sample: int) -> int:
    return round(1000 * sample / HEARING_RATE)
