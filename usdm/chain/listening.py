"""A turn that is heard while it is spoken, so that little is left to do when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from usdm.audio.streaming import StreamingResampler
from usdm.chain.components import Components
from usdm.chain.replies import ReplyOptions, Request, whole_reply
from usdm.chain.sound import LengthLimit, Samples, check_sample_rate, mono_samples, speech
from usdm.chain.stages import Chain, LanguageModelChain, Question
from usdm.chain.streaming import StreamEvent, streamed_reply
from usdm.types import InputError, SpokenReply, Turn

if TYPE_CHECKING:
    from typing_extensions import Unpack

READ_AHEAD = 0.5  # seconds of speech that the language model reads at a time, while it lasts


class Listener:
    """One turn: blocks of it are pushed as they are recorded, then it is answered, as often as one likes.

    Units are extracted and read by the language model block by block. The first answer ends the turn; one of less
    than ten seconds then has exactly the units of a recording, and the model reads on from the first that differs.
    Each later answer goes on from where it departs from the one before: with an edited `transcript`, or another
    `reply`, nothing is read again that comes before the edit. Made by `SpokenDialogPipeline.listen`, for one thread.
    """

    def __init__(
        self,
        parts: Components,
        sample_rate: int,
        limit: LengthLimit,
        history: tuple[Turn, ...],
        chain: Chain,
        request: Callable[..., Request],
    ) -> None:
        """`request` makes one of a question, a chain, the time of the call, and a reply's options."""
        self.sample_rate = check_sample_rate(sample_rate)
        self._parts = parts
        self._limit = limit
        self.history = history  # may be set anew until the turn has ended
        self._chain = chain
        self._request = request
        self._resampler = StreamingResampler(self.sample_rate, parts.units.sample_rate)
        self._extractor = parts.units.stream()
        self._blocks: list[Tensor] = []
        self._num_samples = 0
        self._units = torch.zeros(0, dtype=torch.int64)
        self._num_read = 0  # units that the language model has read
        self._question: Question | None = None  # when the turn has ended

    @property
    def units(self) -> Tensor:
        """(U,) int64, as far as they are settled."""
        return self._units

    def push(self, samples: Samples) -> None:
        """The next block: (t,), (t, channels) or (channels, t), floats or integers, at `sample_rate` Hz.

        Raises InputError for what is no sound, a turn that becomes too long for the model, or one that has ended.
        """
        if self._question is not None:
            raise InputError("this turn has been answered: listen anew for the next one")
        block = mono_samples(samples)
        self._limit.check((self._num_samples + len(block)) / self.sample_rate)
        self._blocks.append(block)
        self._num_samples += len(block)
        self._settle(self._extractor.push(self._resampler.push(block)))

    def respond(self, **options: Unpack[ReplyOptions]) -> SpokenReply:
        """Answer what was said. Takes and raises what `SpokenDialogPipeline.respond` does."""
        return whole_reply(self._parts, self.request(**options))

    def stream(self, **options: Unpack[ReplyOptions]) -> Generator[StreamEvent, None, None]:
        """Answer what was said, as it happens. See `SpokenDialogPipeline.stream`."""
        yield from streamed_reply(self._parts, self.request(**options))

    def request(self, **options: Unpack[ReplyOptions]) -> Request:
        """What `respond` and `stream` make the reply of, for whoever makes it otherwise. Raises what they do."""
        start = time.perf_counter()
        question = self.end()
        tail = time.perf_counter() - start
        request = self._request(question, self._chain, start, **options)
        request.timings["units"] = tail
        return request

    def end(self) -> Question:
        """The whole turn, which ends. Raises InputError, and goes on listening, if nobody can have spoken."""
        if self._question is None:
            heard = speech(torch.cat([torch.zeros(0), *self._blocks]), self.sample_rate)
            tail = self._extractor.push(self._resampler.finish())
            whole = self._extractor.whole()
            self._units = torch.cat([self._units, tail, self._extractor.finish()]) if whole is None else whole
            self._question = Question(heard, self._units, history=self.history)
        return self._question

    def so_far(self) -> Question | None:
        """The turn as if it ended here, with the units of a recording, read by the language model; it goes on.

        None if it is too long to be encoded at once, or nobody can have spoken yet.
        """
        try:
            heard = speech(torch.cat([torch.zeros(0), *self._blocks]), self.sample_rate)
            units = self._extractor.whole()
        except InputError:
            return None
        if units is None:
            return None
        question = Question(heard, units, history=self.history)
        if isinstance(self._chain, LanguageModelChain) and self._chain.stream is not None:
            self._chain.read_ahead(question)
            self._num_read = len(units)  # those that settle meanwhile may differ, and wait until there are more
        return question

    def _settle(self, units: Tensor) -> None:
        """More units that are final; the language model reads them as soon as they are worth a step of it."""
        self._units = torch.cat([self._units, units])
        worth_reading = len(self._units) - self._num_read >= READ_AHEAD * self._parts.units.unit_rate
        if worth_reading and isinstance(self._chain, LanguageModelChain) and self._chain.stream is not None:
            self._chain.read_ahead(Question(units=self._units, history=self.history))
            self._num_read = len(self._units)
