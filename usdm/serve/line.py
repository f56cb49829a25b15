"""A session's way to the engine: what it wants is done in the engine's thread, what comes of it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock

import torch
from torch import Tensor

from usdm.audio import resample
from usdm.chain import LanguageModelChain, Question
from usdm.serve.ear import HEARING_RATE, Ear
from usdm.serve.early import EarlyReply
from usdm.serve.engine import Engine
from usdm.serve.engine_events import Fault, HeardText
from usdm.serve.heard import heard_text
from usdm.serve.replies import LiveReply, LiveTranscription, ReplyOrder, Tell
from usdm.serve.settings import ReplySettings
from usdm.turns import TurnDetector
from usdm.types import Turn

MOST_JOBS = 64


class Line:
    """Methods without an underscore are for the session's thread, and return at once.

    `tell` is called in the engine's thread, and must return at once.
    """

    def __init__(self, engine: Engine, tell: Tell, chain: str | None, sample_rate: int, turn_seconds: float) -> None:
        pipeline = engine.pipeline
        own = pipeline.chain(chain, engine.stream())
        assert isinstance(own, LanguageModelChain)
        self._chain = own
        self._engine = engine
        self._tell = tell
        self._ear = Ear(pipeline, own, sample_rate, None, turn_seconds)
        self._sample_rate = sample_rate
        self._replies: dict[str, LiveReply] = {}  # not ended
        self._expected: ReplySettings | None = None
        self._early: EarlyReply | None = None
        self._early_is_due = False  # its turn was committed
        self._is_closed = False
        self._lock = Lock()
        self._blocks: list[Tensor] | None = None  # sound that a posted job will hear, under the lock
        self._waiting_samples = 0

    def is_behind(self, seconds: float) -> bool:
        """Whether more sound than that waits to be heard, or too much else to be done."""
        return self._waiting_samples > seconds * self._sample_rate or self._engine.num_jobs(self) > MOST_JOBS

    def listen_to(self, sample_rate: int, detector: Callable[[], TurnDetector] | None, holds: bool = False) -> None:
        """See `Ear.listen_to`; the detector is made in the engine's thread."""
        self._sample_rate = sample_rate
        self._post(lambda: self._ear.listen_to(sample_rate, None if detector is None else detector(), holds))

    def hear(self, samples: Tensor) -> None:
        """(t,) float32. What comes before the engine's thread is free is heard together."""
        if self._is_closed:
            return
        with self._lock:
            self._waiting_samples += len(samples)
            if self._blocks is not None:
                self._blocks.append(samples)
                return
            blocks = self._blocks = [samples]
        self._engine.post(self, lambda: self._hear(blocks))

    def remember(self, history: Sequence[Turn]) -> None:
        """What the next turn comes after."""
        known = tuple(history)
        self._post(lambda: self._ear.remember(known))

    def expect(self, settings: ReplySettings | None) -> None:
        """How turns that stop will be answered; None: they will not be. Replies may be begun early then."""
        self._post(partial(setattr, self, "_expected", settings))

    def commit(self, item_id: str) -> None:
        """End the turn: told as `TurnHeard` or `TurnRefused`."""

        def commit() -> None:
            self._early_is_due = self._early is not None and self._early.question is self._ear.ready
            self._tell(self._ear.commit(item_id))

        self._post(commit)

    def clear(self) -> None:
        """Forget the turn."""
        self._post(lambda: self._ear.clear())

    def hear_whole(self, item_id: str, samples: Tensor, sample_rate: int) -> None:
        """A turn that is recorded already: told as `TurnHeard` or `TurnRefused`."""

        def hear() -> None:
            ear = Ear(self._engine.pipeline, self._chain, sample_rate, None, self._ear.turn_seconds)
            ear.hear(samples)
            self._tell(ear.commit(item_id))

        self._post(hear)

    def transcribe(self, item_id: str, units: Tensor, history: tuple[Turn, ...] = ()) -> None:
        """Told as `Transcribed` or `TranscriptionFailed`."""
        question = Question(units=units, history=history)

        def begin() -> None:
            pipeline, stream = self._engine.pipeline, self._engine.stream()
            writing = LiveTranscription(pipeline, self._chain, stream, self, item_id, question, self._tell)
            self._engine.begin(writing)

        self._post(begin)

    def reply(self, order: ReplyOrder) -> None:
        """Told by `ReplyText` and `ReplySound`, and at its end `ReplyEnded`."""

        def begin() -> None:
            early, self._early = self._early, None
            if early is not None and early.is_for(order):
                self._replies[order.reply_id] = early.reply
                early.release(order.reply_id)
                return
            if early is not None:
                self._engine.drop(early.reply)
            reply = LiveReply(self._engine.pipeline, self._chain, self, order, self._tell, self._play, self._end)
            self._replies[order.reply_id] = reply
            self._engine.begin(reply)

        self._post(begin)

    def cancel(self, reply_id: str) -> None:
        """Write and say no more of it, and count none of its sound as played from here on."""

        def cancel() -> None:
            self._ear.guard.stop()
            if (reply := self._replies.get(reply_id)) is not None:
                self._engine.drop(reply)
                reply.cancel()

        self._post(cancel)

    def find_heard(self, item_id: str, heard_ms: int, text: str, units: Tensor) -> None:
        """Told as `HeardText`."""

        def find() -> None:
            num_heard = round(heard_ms * self._engine.pipeline.parts.units.unit_rate / 1000)
            words = heard_text(self._chain, self._engine.stream(), text, units, num_heard)
            self._tell(HeardText(item_id, heard_ms, words))

        self._post(find)

    def close(self) -> None:
        """Whatever is asked for later is not done: the session may still be told what was under way."""
        self._is_closed = True
        self._engine.close(self)

    def let_go(self) -> None:
        """See `Owner`. Memory is given back at once: the line itself is in circles that Python finds only later."""
        self._replies.clear()
        del self._ear, self._chain, self._early

    def fault(self, message: str, is_defect: bool) -> None:
        """See `Owner`: a job of this line went wrong."""
        self._tell(Fault(message, is_defect))

    def _post(self, job: Callable[[], None]) -> None:
        """After all sound so far, and before all that comes."""
        with self._lock:
            self._blocks = None
        if not self._is_closed:
            self._engine.post(self, job)

    def _hear(self, blocks: list[Tensor]) -> None:
        with self._lock:
            if self._blocks is blocks:
                self._blocks = None
            self._waiting_samples -= sum(map(len, blocks))
        for event in self._ear.hear(torch.cat(blocks)):
            self._tell(event)
        self._begin_early()

    def _begin_early(self) -> None:
        """In a pause, begin the reply that will be asked for if the turn is over; stop it when the person goes on."""
        ready = self._ear.ready
        if self._early is not None and not self._early_is_due and self._early.question is not ready:
            self._engine.drop(self._early.reply)
            self._early = None
        if ready is None or self._early is not None or self._expected is None or not self._engine.is_idle:
            return
        pipeline = self._engine.pipeline
        self._early = EarlyReply(pipeline, self._chain, self, ready, self._expected, self._tell, self._play, self._end)
        self._early_is_due = False
        self._engine.begin(self._early.reply)

    def _play(self, samples: Tensor, sample_rate: int) -> None:
        self._ear.guard.play(resample(samples, sample_rate, HEARING_RATE))

    def _end(self, reply_id: str) -> None:
        self._replies.pop(reply_id, None)
