"""Many questions at once in front of one pipeline: what a server on this package does.

Whoever asks waits for a reply of their own. One thread takes all that wait, extracts their units together and lets
the language model write their replies side by side; those that come meanwhile take the rows that become free.
Another thread makes the sound of finished replies while the first goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType

import torch

from usdm.audio import resample
from usdm.benchmark.answers import stage_sampling
from usdm.chain import Answer, LanguageModelChain, Question, SpokenDialogPipeline
from usdm.chain.synthesis_stages import on_own_stream
from usdm.lm import StageProgram
from usdm.lm.batch import ContinuousBatch
from usdm.types import Waveform

GATHERING = 0.005  # seconds that the first of a round waits for others: what asks at once comes together


@dataclass(frozen=True, eq=False)
class _Request:
    question: Waveform
    reply: Future[torch.Tensor]  # (T,) sound


class BatchServer:
    """Answers questions of any thread; use it as a context manager."""

    def __init__(self, pipeline: SpokenDialogPipeline, capacity: int, seed: int = 0) -> None:
        """`capacity`: replies written, and on a GPU voiced, at once."""
        self._pipeline = pipeline
        self._capacity = capacity
        self._voiced_at_once = capacity if pipeline.parts.speech.device.type == "cuda" else 1
        self._seed = seed
        self._waiting: SimpleQueue[_Request | None] = SimpleQueue()  # None ends it
        self._answered: SimpleQueue[tuple[_Request, torch.Tensor] | None] = SimpleQueue()
        self._open: set[_Request] = set()
        self._error: BaseException | None = None
        self._threads = [Thread(target=self._guarded, args=(work,), daemon=True) for work in (self._write, self._voice)]

    def respond(self, question: Waveform) -> torch.Tensor:
        """(T,) sound of the reply, when it is whole. Raises what went wrong with this question."""
        request = _Request(question, Future())
        self._open.add(request)
        self._waiting.put(request)
        if self._error is not None:
            raise self._error
        try:
            return request.reply.result()
        finally:
            self._open.discard(request)

    def __enter__(self) -> BatchServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Whoever waits hears of an error that ends the work; nobody waits for ever."""
        try:
            work()
        except BaseException as error:
            self._error = error
            self._answered.put(None)
            for request in list(self._open):
                with suppress(InvalidStateError):  # it has its reply already
                    request.reply.set_exception(error)

    def _write(self) -> None:
        """Rounds of writing: each lasts for as long as somebody waits whenever a row is free."""
        with on_own_stream(self._pipeline):
            batch: ContinuousBatch = ContinuousBatch(self._pipeline.parts.llm, self._capacity)
            while (first := self._waiting.get()) is not None:
                for request, answer in batch.run(self._round(first)):
                    if isinstance(answer, Exception):
                        request.reply.set_exception(answer)
                    elif answer.agent_units is None or not len(answer.agent_units):
                        request.reply.set_result(torch.zeros(0))
                    else:
                        self._answered.put((request, answer.agent_units))
        self._answered.put(None)

    def _round(self, first: _Request) -> Iterator[tuple[_Request, StageProgram[Answer]]]:
        chain = LanguageModelChain(self._pipeline.parts.llm, self._pipeline.parts.template)
        sampling = stage_sampling(self._pipeline, self._seed)
        extractor = self._pipeline.parts.units
        requests = [first, *self._gathered()]
        while requests:
            heard = [
                resample(request.question.samples, request.question.sample_rate, extractor.sample_rate)
                for request in requests
            ]
            for request, units in zip(requests, extractor(heard), strict=True):
                yield request, chain.program(Question(units=units), sampling)
            requests = self._gathered()

    def _gathered(self) -> list[_Request]:
        """Those who wait, as far as there may be rows for them."""
        found: list[_Request] = []
        while len(found) < self._capacity - 1:
            try:
                request = self._waiting.get(timeout=GATHERING)
            except Empty:
                break
            if request is None:
                self._waiting.put(None)  # for the loop over rounds
                break
            found.append(request)
        return found

    def _voice(self) -> None:
        parts = self._pipeline.parts
        voice = self._pipeline.speaker()
        with on_own_stream(self._pipeline), torch.inference_mode():
            while (item := self._answered.get()) is not None:
                items = [item]
                while len(items) < self._voiced_at_once and not self._answered.empty():
                    if (item := self._answered.get()) is None:
                        self._answered.put(None)
                        break
                    items.append(item)
                spoken = parts.speech(
                    [units for _, units in items],
                    [voice] * len(items),
                    [self._seed] * len(items),
                    self._pipeline.settings.decoder,
                )
                for (request, _), sound in zip(items, spoken.sounds, strict=True):
                    request.reply.set_result(sound)
