"""One question after another: how long until the first sound, until the whole reply, and where the time goes.

Every question is answered by every procedure in turn, forwards one time and backwards the next, so that a machine
that gets slower or faster favours none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from usdm.benchmark.machine import Peak, peak_memory, synchronize
from usdm.benchmark.reference_pipeline import reference_respond
from usdm.chain import SpokenDialogPipeline
from usdm.chain.streaming import SpokenChunk, StreamEvent
from usdm.tokens.layout import STAGES
from usdm.types import Sampling, SpokenReply, Waveform

REFERENCE, WHOLE, STREAMED, LIVE = "reference", "whole", "streamed", "live"
WAYS = (REFERENCE, WHOLE, STREAMED, LIVE)
BLOCK = 0.1  # seconds of sound that a microphone gives at once
LISTENING = "listening"  # the stage that a live session does before the question ends

Progress = Callable[[], None]  # after every answer


@dataclass(frozen=True)
class Run:
    """One question, answered once."""

    procedure: str
    question: int
    repeat: int
    first_sound: float  # seconds from the question's end
    seconds: float  # from the question's end until the reply was whole
    reply_seconds: float  # that the reply lasts
    stages: Mapping[str, float]  # seconds by stage
    units: int  # of the reply
    same_units: bool  # as the published procedure wrote them this time


@dataclass(frozen=True)
class _Answered:
    reply: SpokenReply
    first_sound: float
    seconds: float
    listening: float | None = None  # seconds of work while the question was spoken


Procedure = Callable[[Waveform], _Answered]


def measure_answers(
    pipeline: SpokenDialogPipeline,
    questions: Sequence[Waveform],
    *,
    repeats: int,
    warmup: int,
    seed: int = 0,
    progress: Progress = lambda: None,
) -> list[Run]:
    """Every question by every procedure, `repeats` times; before that `warmup` answers each, which do not count."""
    ways = procedures(pipeline, seed)
    for number in range(warmup):
        for answer in ways.values():
            answer(questions[number % len(questions)])
            progress()
    runs: list[Run] = []
    for repeat in range(repeats):
        for number, question in enumerate(questions):
            order = list(ways)[:: -1 if (repeat + number) % 2 else 1]
            answered = {}
            for name in order:
                answered[name] = ways[name](question)
                progress()
            expected = answered[REFERENCE].reply.agent_units
            runs += [_run(name, number, repeat, answered[name], expected) for name in ways]
    return runs


def measure_memory(pipeline: SpokenDialogPipeline, question: Waveform, seed: int = 0) -> dict[str, Peak]:
    """The most that is in use while each procedure answers, the model's weights included."""
    device = pipeline.parts.speech.device
    peaks = {}
    for name, answer in procedures(pipeline, seed).items():
        with peak_memory(device) as peaks[name]:
            answer(question)
    return peaks


def procedures(pipeline: SpokenDialogPipeline, seed: int) -> dict[str, Procedure]:
    """Ways to answer: as published; the whole reply; streamed; streamed, and heard while it was being spoken."""

    def reference(question: Waveform) -> _Answered:
        start = time.perf_counter()
        reply = reference_answer(pipeline, question, seed)
        seconds = time.perf_counter() - start
        return _Answered(reply, seconds, seconds)

    def whole(question: Waveform) -> _Answered:
        start = time.perf_counter()
        reply = pipeline.respond(question.samples, question.sample_rate, seed=seed)
        seconds = time.perf_counter() - start
        return _Answered(reply, seconds, seconds)

    def streamed(question: Waveform) -> _Answered:
        start = time.perf_counter()
        return _heard_out(pipeline.stream(question.samples, question.sample_rate, seed=seed), start)

    def live(question: Waveform) -> _Answered:
        before = time.perf_counter()
        session = pipeline.listen(question.sample_rate)
        for block in question.samples.split(round(BLOCK * question.sample_rate)):
            session.push(block)
        synchronize(pipeline.parts.speech.device)
        start = time.perf_counter()
        return replace(_heard_out(session.stream(seed=seed), start), listening=start - before)

    return {REFERENCE: reference, WHOLE: whole, STREAMED: streamed, LIVE: live}


def reference_answer(pipeline: SpokenDialogPipeline, question: Waveform, seed: int) -> SpokenReply:
    """The published procedure with the bundle's own sampling and voice."""
    voice = pipeline.speaker()
    return reference_respond(
        pipeline.parts, question, sampling=stage_sampling(pipeline, seed), reference=voice, seed=seed
    )


def stage_sampling(pipeline: SpokenDialogPipeline, seed: int) -> dict[str, Sampling]:
    """The bundle's settings of every stage, under the seed."""
    return {stage: replace(pipeline.settings.sampling.get(stage, Sampling()), seed=seed) for stage in STAGES}


def _heard_out(events: Iterable[StreamEvent], start: float) -> _Answered:
    first_sound = None
    for event in events:
        if isinstance(event, SpokenChunk) and first_sound is None:
            first_sound = time.perf_counter() - start
        elif isinstance(event, SpokenReply):
            reply = event
    seconds = time.perf_counter() - start
    return _Answered(reply, seconds if first_sound is None else first_sound, seconds)


def _run(name: str, question: int, repeat: int, answered: _Answered, expected: torch.Tensor | None) -> Run:
    reply = answered.reply
    stages = dict(reply.timings)
    if answered.listening is not None:
        stages[LISTENING] = answered.listening
    units = reply.agent_units if reply.agent_units is not None else torch.zeros(0)
    return Run(
        procedure=name,
        question=question,
        repeat=repeat,
        first_sound=answered.first_sound,
        seconds=answered.seconds,
        reply_seconds=0.0 if reply.waveform is None else reply.waveform.shape[-1] / reply.sample_rate,
        stages=stages,
        units=len(units),
        same_units=expected is not None and torch.equal(units, expected),
    )
