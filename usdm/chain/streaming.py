"""A reply while it is being made: its texts when they are known, its sound while units are still written."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from usdm.chain.components import Components
from usdm.chain.replies import Request, fade_out, spoken_reply
from usdm.chain.stages import Answer, LanguageModelChain, SpokenText
from usdm.types import SpokenReply


@dataclass(frozen=True)
class SpokenChunk:
    """The next stretch of a reply's sound, which follows the one before without a gap."""

    samples: Tensor  # (t,) float32, t > 0
    sample_rate: int  # Hz


StreamEvent = SpokenText | SpokenChunk | SpokenReply


class SpeechStream:
    """Units of one reply in, its sound out as soon as it is settled."""

    def __init__(self, parts: Components, request: Request) -> None:
        self._stream = parts.speech.stream(request.voice, request.seed, request.decoder)
        self._start = request.start
        self.sample_rate = parts.speech.sample_rate
        self.chunks: list[Tensor] = []  # (t,) float32, all that was given
        self.first_sound: float | None = None  # seconds from the call to the first chunk

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by step, so far."""
        return self._stream.timings

    def push(self, unit: int) -> SpokenChunk | None:
        """The chunk that this unit completes, if it does."""
        return self._chunk(self._stream.push(torch.tensor([unit])))

    def finish(self, cut_off: bool) -> SpokenChunk | None:
        """The rest. Speech that was cut off in its middle fades out."""
        samples = self._stream.finish()
        return self._chunk(fade_out(samples, self.sample_rate) if cut_off else samples)

    def _chunk(self, samples: Tensor) -> SpokenChunk | None:
        if len(samples) == 0:
            return None
        if self.first_sound is None:
            self.first_sound = time.perf_counter() - self._start
        self.chunks.append(samples)
        return SpokenChunk(samples, self.sample_rate)


def streamed_reply(parts: Components, request: Request) -> Generator[StreamEvent, None, None]:
    """Texts and chunks of sound as they come; the whole reply at last, its sound the chunks in a row.

    Whoever stops listening closes the generator, and everything that the reply holds is let go.
    """
    speech = SpeechStream(parts, request)
    with closing(_live(request)) as steps:
        answer = yield from _spoken(steps, speech)
    sound = None
    if answer.agent_units is not None and len(answer.agent_units) and request.speak:
        if chunk := speech.finish(cut_off="speak" in answer.truncated):
            yield chunk
        sound = torch.cat(speech.chunks)
    timings = {**request.timings, **answer.timings, **speech.timings}
    yield spoken_reply(parts, request, answer, sound, timings, speech.first_sound)


def _spoken(
    steps: Generator[SpokenText | int, None, Answer], speech: SpeechStream
) -> Generator[SpokenText | SpokenChunk, None, Answer]:
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
        event = step if isinstance(step, SpokenText) else speech.push(step)
        if event is not None:
            yield event


def _live(request: Request) -> Generator[SpokenText | int, None, Answer]:
    """Texts when they are known and units when they are written; of another kind of chain all at its end."""
    chain = request.chain
    if isinstance(chain, LanguageModelChain):
        return (yield from chain.live(request.question, request.sampling, request.speak))
    answer = chain.answer(request.question, request.sampling, request.speak)
    if answer.user_text is not None:
        yield SpokenText("user", answer.user_text)
    if answer.agent_text is not None:
        yield SpokenText("agent", answer.agent_text)
    if request.speak and answer.agent_units is not None:
        yield from answer.agent_units.tolist()
    return answer
