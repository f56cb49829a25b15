"""Many questions: waiting times when several ask at once, and the rate of a batch that nobody waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

from usdm.audio import read_audio, write_audio
from usdm.benchmark.answers import Progress, reference_answer
from usdm.benchmark.batch_server import BatchServer
from usdm.benchmark.figures import percentile
from usdm.chain import SpokenDialogPipeline
from usdm.chain.requests import SynthesisRequest
from usdm.chain.synthesis import SynthesisReport, synthesize
from usdm.types import InputError, Waveform


@dataclass(frozen=True)
class Waiting:
    """How long whole replies took while several asked at once, each again as soon as it had its reply."""

    concurrency: int
    replies: int
    p50: float  # seconds
    p95: float  # seconds
    replies_per_second: float


@dataclass(frozen=True)
class Load:
    """One level of concurrency under both procedures."""

    concurrency: int
    reference: Waiting  # one at a time, the others queue
    ours: Waiting  # see `BatchServer`


@dataclass(frozen=True)
class BatchRate:
    """Questions in files to replies in files, as fast as it goes."""

    questions: int
    seconds: float
    replies_per_second: float
    speech_per_second: float  # seconds of replies made in a second
    without_reply: int  # questions to which the model said nothing
    published_questions: int  # half of them before our batch, half after
    published_seconds: float
    published_replies_per_second: float


def measure_load(
    pipeline: SpokenDialogPipeline,
    questions: Sequence[Waveform],
    *,
    concurrency: Sequence[int],
    rounds: int,
    capacity: int,
    seed: int = 0,
    progress: Progress = lambda: None,
) -> list[Load]:
    """`rounds` questions from each of so many clients, for every level; the procedures alternate in going first."""
    lock = Lock()

    def reference(question: Waveform) -> None:
        with lock:
            reference_answer(pipeline, question, seed)

    loads = []
    with BatchServer(pipeline, capacity, seed) as server:
        ways: dict[str, Callable[[Waveform], object]] = {"reference": reference, "ours": server.respond}
        for number, clients in enumerate(concurrency):
            measured = {}
            for name in list(ways)[:: -1 if number % 2 else 1]:
                measured[name] = closed_loop(ways[name], questions, clients, rounds, progress)
            loads.append(Load(clients, measured["reference"], measured["ours"]))
    return loads


def closed_loop(
    respond: Callable[[Waveform], object], questions: Sequence[Waveform], clients: int, rounds: int, progress: Progress
) -> Waiting:
    """So many clients at once, each of which asks `rounds` times, the next question after the last one's reply."""

    def ask(client: int) -> list[float]:
        waited = []
        for turn in range(rounds):
            start = time.perf_counter()
            respond(questions[(client + turn * clients) % len(questions)])
            waited.append(time.perf_counter() - start)
            progress()
        return waited

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        waited = [seconds for client in pool.map(ask, range(clients)) for seconds in client]
    seconds = time.perf_counter() - start
    return Waiting(clients, len(waited), percentile(waited, 50), percentile(waited, 95), len(waited) / seconds)


def measure_batch(
    pipeline: SpokenDialogPipeline,
    requests: Sequence[SynthesisRequest],
    *,
    size: int,
    reference: int,
    capacity: int,
    seed: int = 0,
    progress: Progress = lambda: None,
) -> BatchRate:
    """`size` questions through `synthesize`, after as many as fit at once for warming up; the published procedure
    answers `reference` of them one after another. Questions repeat where there are fewer. Raises InputError if
    none can be answered."""
    copies = [_copy(requests, number) for number in range(size)]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _synthesize(pipeline, copies[:capacity], folder / "warmup", capacity, seed)
        halves = [copies[: reference // 2], copies[reference // 2 : reference]]
        before = _one_by_one(pipeline, halves[0], folder, seed, progress)
        seconds, report = _synthesize(pipeline, copies, folder / "ours", capacity, seed)
        after = _one_by_one(pipeline, halves[1], folder, seed, progress)
    count = len(halves[0]) + len(halves[1])
    return BatchRate(
        questions=size,
        seconds=seconds,
        replies_per_second=size / seconds,
        speech_per_second=report.seconds / seconds,
        without_reply=len(report.failed),
        published_questions=count,
        published_seconds=before + after,
        published_replies_per_second=count / (before + after),
    )


def _copy(requests: Sequence[SynthesisRequest], number: int) -> SynthesisRequest:
    return replace(requests[number % len(requests)], id=f"{number}")


def _synthesize(
    pipeline: SpokenDialogPipeline, requests: Sequence[SynthesisRequest], folder: Path, capacity: int, seed: int
) -> tuple[float, SynthesisReport]:
    """Seconds that it took, with reading and writing, and what came of it."""
    start = time.perf_counter()
    report = synthesize(pipeline, requests, folder, capacity=capacity, seed=seed)
    seconds = time.perf_counter() - start
    if len(report.failed) == len(requests):
        raise InputError(f"no question has a reply: {report.failed[0]}")
    return seconds, report


def _one_by_one(
    pipeline: SpokenDialogPipeline, requests: Sequence[SynthesisRequest], folder: Path, seed: int, progress: Progress
) -> float:
    start = time.perf_counter()
    for request in requests:
        reply = reference_answer(pipeline, question_of(request), seed)
        if reply.waveform is not None:
            write_audio(folder / f"{request.id}.wav", reply.waveform, reply.sample_rate)
        progress()
    return time.perf_counter() - start


def question_of(request: SynthesisRequest) -> Waveform:
    """Raises InputError for a request without a recording, or one that cannot be read."""
    if request.audio is None or request.history:
        raise InputError(f"{request.id}: only recordings without history can be compared; give it as `audio` alone")
    return read_audio(request.folder / request.audio)
