"""A reply that is begun in a pause, before it is sure that the turn is over: held back until it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from usdm.chain import LanguageModelChain, Question, SpokenDialogPipeline
from usdm.serve.engine import Owner
from usdm.serve.engine_events import EngineEvent, PartialTranscript, ReplyEnded, ReplySound, ReplyText
from usdm.serve.replies import LiveReply, ReplyOrder, Tell
from usdm.serve.settings import ReplySettings

Play = Callable[[Tensor, int], None]


class EarlyReply:
    """For the engine's thread alone. Until it is released only what was said is told, and nothing counted as played."""

    def __init__(
        self,
        pipeline: SpokenDialogPipeline,
        chain: LanguageModelChain,
        owner: Owner,
        question: Question,
        settings: ReplySettings,
        tell: Tell,
        play: Play,
        end: Callable[[str], None],
    ) -> None:
        """See `LiveReply`."""
        self.question, self.settings = question, settings
        self._tell, self._play, self._end = tell, play, end
        self._id: str | None = None  # once it is released
        self._events: list[EngineEvent] = []
        self._sounds: list[tuple[Tensor, int]] = []
        self.reply = LiveReply(
            pipeline, chain, owner, ReplyOrder("", question, settings), self._hear, self._hold, lambda _: None
        )

    def is_for(self, order: ReplyOrder) -> bool:
        """Whether it is the reply that is asked for."""
        asked, own = order.question, self.question
        if asked.units is None or own.units is None or not torch.equal(asked.units, own.units):
            return False
        return asked.text is None and asked.history == own.history and order.settings == self.settings

    def release(self, reply_id: str) -> None:
        """Tell what was held back, and all that comes."""
        self._id = reply_id
        for sound, rate in self._sounds:
            self._play(sound, rate)
        held, self._events, self._sounds = self._events, [], []
        for event in held:
            self._hear(event)

    def _hear(self, event: EngineEvent) -> None:
        if self._id is None:
            self._events.append(event)
            if isinstance(event, ReplyText) and event.role == "user":
                self._tell(PartialTranscript(event.text))
        elif isinstance(event, ReplyText | ReplySound | ReplyEnded):
            if isinstance(event, ReplyEnded):
                self._end(self._id)
            self._tell(replace(event, reply_id=self._id))

    def _hold(self, sound: Tensor, rate: int) -> None:
        if self._id is None:
            self._sounds.append((sound, rate))
        else:
            self._play(sound, rate)
