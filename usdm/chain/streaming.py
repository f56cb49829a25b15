"""A reply while it is being made: its texts when they are known, its sound while units are still written."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from usdm.chain.components import Components
from usdm.chain.prefetch import prefetch
from usdm.chain.replies import Request, fade_out, spoken_reply
from usdm.chain.stages import Answer, LanguageModelChain, SpokenText
from usdm.types import SpokenReply


@dataclass(frozen=True)
class SpokenChunk:
    """The next stretch of a reply's sound, which follows the one before without a gap."""

    samples: Tensor  # (t,) float32, t > 0
    sample_rate: int  # Hz


UNITS_AHEAD = 64  # that the language model may write while the decoder is busy

StreamEvent = SpokenText | SpokenChunk | SpokenReply


class SpeechStream:
    """Units of one reply in, its sound out as soon as it is settled. On a GPU its work has a CUDA stream of its own."""

    def __init__(self, parts: Components, request: Request) -> None:
        self._place = _own_stream(parts.speech.device)
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
        with torch.cuda.stream(self._place):
            return self._chunk(self._stream.push(torch.tensor([unit])))

    def finish(self, cut_off: bool) -> SpokenChunk | None:
        """The rest. Speech that was cut off in its middle fades out."""
        with torch.cuda.stream(self._place):
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
    live = _live(request)
    # On a GPU the language model writes on while a chunk is decoded; on a CPU both want the same processors.
    with closing(prefetch(live, UNITS_AHEAD) if overlaps(parts) else live) as steps:
        answer = yield from _spoken(steps, speech)
    sound = None
    if answer.agent_units is not None and len(answer.agent_units) and request.speak:
        if chunk := speech.finish(cut_off="speak" in answer.truncated):
            yield chunk
        sound = torch.cat(speech.chunks)
    timings = {**request.timings, **answer.timings, **speech.timings}
    yield spoken_reply(parts, request, answer, sound, timings, speech.first_sound)


def overlaps(parts: Components) -> bool:
    """Whether language model and decoder gain by working at once."""
    return parts.speech.device.type == "cuda"


def _own_stream(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # for the weights, and a voice that was just read
    return stream


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
