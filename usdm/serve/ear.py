"""One session's input: samples in; turns out, heard by the model while they are spoken."""

from __future__ import annotations

import torch
from torch import Tensor

from usdm.audio import resample
from usdm.audio.streaming import StreamingResampler
from usdm.chain import LanguageModelChain, Listener, Question, SpokenDialogPipeline
from usdm.serve.audio_formats import PCM16
from usdm.serve.echo import EchoGuard
from usdm.serve.engine_events import EngineEvent, TurnHeard, TurnRefused, TurnStarted, TurnStopped
from usdm.turns import SpeechStarted, TurnDetector
from usdm.types import InputError, Turn

HEARING_RATE = 16_000  # Hz, of detectors and of the guard
KEPT = 5.0  # seconds of sound that are kept in case that a turn has begun in them


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
        self._listener: Listener | None = None
        self._num_listened = 0  # samples of the turn
        self._num_told = 0  # units of the turn that the detector knows
        self.listen_to(sample_rate, detector)

    def listen_to(self, sample_rate: int, detector: TurnDetector | None) -> None:
        """From now on, to sound at another rate or in another way. What was heard of a turn is forgotten."""
        self._resampler = StreamingResampler(sample_rate, HEARING_RATE)
        self._detector = detector
        self._detected_from = self._heard  # where the detector begins to count
        self.clear()

    def remember(self, history: tuple[Turn, ...]) -> None:
        """What the model reads before the turn, also before one that has begun."""
        self._history = history
        if self._listener is not None:
            self._listener.history = history

    def hear(self, samples: Tensor) -> list[EngineEvent]:
        """(t,) float32."""
        new = self._resampler.push(samples)
        if len(new) == 0:
            return []
        self._heard += len(new)
        if self._detector is None:
            self._listen(new)
            return []
        self._kept = torch.cat([self._kept, new])[-round(KEPT * HEARING_RATE) :]
        if self._listener is not None:
            self._listen(new)
        events: list[EngineEvent] = []
        for event in self._detector.push(self.guard.push(new), self._new_units(), self.guard.is_playing):
            at = self._detected_from + event.sample
            if isinstance(event, SpeechStarted):
                self._begin(at)
                events.append(TurnStarted(_milliseconds(at)))
            elif self._listener is not None:
                events.append(TurnStopped(_milliseconds(at)))
        if self._num_listened >= self.turn_seconds * HEARING_RATE and not events and self._listener is not None:
            events.append(TurnStopped(_milliseconds(self._heard)))
        return events

    def commit(self, item_id: str) -> TurnHeard | TurnRefused:
        """End the turn."""
        listener = self._listener
        self.clear()
        if listener is None:
            return TurnRefused(item_id, "nobody speaks in what was appended: append audio first")
        try:
            question = listener.end()
        except InputError as error:
            return TurnRefused(item_id, str(error))
        return _heard(item_id, question)

    def clear(self) -> None:
        """Forget what was heard of the turn."""
        self._listener = None
        self._kept = self._kept[:0]
        self._num_listened = self._num_told = 0

    def _begin(self, sample: int) -> None:
        """A turn has begun some time ago: listen from there on."""
        since = min(len(self._kept), max(0, self._heard - sample))
        self._listener, self._num_listened, self._num_told = None, 0, 0
        self._listen(self._kept[len(self._kept) - since :])

    def _listen(self, samples: Tensor) -> None:
        if self._listener is None:
            self._listener = self._pipeline.listen(HEARING_RATE, history=self._history, chain=self._chain)
        self._num_listened += len(samples)
        self._listener.push(samples)

    def _new_units(self) -> Tensor:
        units = self._listener.units if self._listener is not None else torch.zeros(0, dtype=torch.int64)
        new, self._num_told = units[self._num_told :], len(units)
        return new


def _heard(item_id: str, question: Question) -> TurnHeard:
    assert question.waveform is not None and question.units is not None
    sound = resample(question.waveform.samples, question.waveform.sample_rate, PCM16.sample_rate)
    return TurnHeard(item_id, question.units, PCM16.encode(sound), PCM16.milliseconds(len(sound)))


def _milliseconds(sample: int) -> int:
    return round(1000 * sample / HEARING_RATE)
