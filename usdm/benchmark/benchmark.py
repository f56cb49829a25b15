"""How fast a model answers, as ratios to the published procedure on the same weights in the same run.

result = benchmark(pipeline, read_requests("questions"), repeats=5)
print(benchmark_table(result))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from usdm.benchmark.answers import REFERENCE, WAYS, Run, measure_answers, measure_memory
from usdm.benchmark.comparison import compare, same_units, stage_medians
from usdm.benchmark.decoding import DecodingSpeed, measure_decoding
from usdm.benchmark.figures import Figure
from usdm.benchmark.load import BatchRate, Load, measure_batch, measure_load, question_of
from usdm.benchmark.machine import Peak, machine
from usdm.benchmark.reference_pipeline import REFERENCE_DECODER
from usdm.chain import SpokenDialogPipeline
from usdm.chain.requests import SynthesisRequest
from usdm.types import InputError

BENCHMARK_FILE = "benchmark.json"
CPU_CAPACITY, GPU_CAPACITY = 16, 64  # sequences that the language model writes at once

Progress = Callable[[str], None]  # named after what has just been done


@dataclass(frozen=True)
class Benchmark:
    """Everything that was measured. Times are in seconds, sizes in bytes, rates per second."""

    figures: tuple[Figure, ...]
    stages: Mapping[str, Mapping[str, float]]  # procedure -> stage -> median seconds
    same_units: Mapping[str, float]  # procedure -> share of replies with the published procedure's units
    load: tuple[Load, ...]
    batch: BatchRate
    decoding: DecodingSpeed
    memory: Mapping[str, Peak]  # procedure -> the most in use while answering
    runs: tuple[Run, ...]  # every answer, one by one
    facts: Mapping[str, Any]  # machine, model, and how it was measured

    def save(self, folder: str | Path) -> Path:
        """Write `benchmark.json`."""
        path = Path(folder) / BENCHMARK_FILE
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path


def benchmark(
    pipeline: SpokenDialogPipeline,
    requests: Sequence[SynthesisRequest],
    *,
    limit: int | None = None,
    repeats: int = 3,
    warmup: int = 1,
    concurrency: Sequence[int] = (1, 4, 16),
    rounds: int = 2,
    batch: int = 64,
    batch_reference: int = 16,
    capacity: int | None = None,
    decoding_tokens: int = 100,
    decoding_context: int = 200,
    seed: int = 0,
    progress: Progress = lambda name: None,
) -> Benchmark:
    """Measure a pipeline with its own settings on recorded questions.

    Args:
        limit: of the questions that are answered one by one; None takes all.
        repeats: of every question and every procedure, and of the decode loop.
        warmup: answers of every procedure before any of them counts.
        concurrency: how many ask at once.
        rounds: questions of each of them.
        batch: questions of the batch; they repeat where there are fewer.
        batch_reference: how many of them the published procedure answers, for its rate.
        capacity: sequences that the language model writes at once; None is 16, on a GPU 64.
        decoding_tokens: that the decode loop writes each time, after `decoding_context` ids.
        seed: of every reply.

    Raises:
        InputError: counts below their least, no question, or one that cannot be answered.
    """
    counts = {"repeats": repeats, "rounds": rounds, "batch": batch, "decoding_tokens": decoding_tokens}
    _check({**counts, "limit": limit, "batch_reference": batch_reference, "capacity": capacity}, concurrency, requests)
    device = pipeline.parts.speech.device
    capacity = capacity or (GPU_CAPACITY if device.type == "cuda" else CPU_CAPACITY)
    questions = [question_of(request) for request in requests]
    alone = questions[:limit]
    runs = measure_answers(
        pipeline, alone, repeats=repeats, warmup=warmup, seed=seed, progress=lambda: progress("answers")
    )
    memory = measure_memory(pipeline, max(alone, key=lambda question: question.seconds), seed)
    load = measure_load(
        pipeline,
        questions,
        concurrency=concurrency,
        rounds=rounds,
        capacity=capacity,
        seed=seed,
        progress=lambda: progress("load"),
    )
    rate = measure_batch(
        pipeline,
        requests,
        size=batch,
        reference=batch_reference,
        capacity=capacity,
        seed=seed,
        progress=lambda: progress("batch"),
    )
    decoding = measure_decoding(pipeline.parts, decoding_context, decoding_tokens, repeats)
    settings = {"repeats": repeats, "warmup": warmup, "rounds": rounds, "capacity": capacity, "seed": seed}
    facts = {
        "machine": machine(device),
        "model": _model(pipeline),
        "questions": {"count": len(alone), "seconds": median(question.seconds for question in alone)},
        "settings": settings,
    }
    return Benchmark(
        figures=tuple(compare(runs, load, rate, decoding, memory)),
        stages={name: stage_medians(runs, name) for name in WAYS},
        same_units={name: same_units(runs, name) for name in WAYS if name != REFERENCE},
        load=tuple(load),
        batch=rate,
        decoding=decoding,
        memory=memory,
        runs=tuple(runs),
        facts=facts,
    )


def _check(counts: Mapping[str, int | None], concurrency: Sequence[int], requests: Sequence[SynthesisRequest]) -> None:
    if not requests:
        raise InputError("there is no question: give recordings")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{name}={count}: give 1 or more")
    if not concurrency or min(concurrency) < 1:
        raise InputError(f"concurrency={list(concurrency)}: give one level or more, each of 1 or more")


def _model(pipeline: SpokenDialogPipeline) -> dict[str, Any]:
    """Sizes, precisions and settings, on which the figures depend."""
    parts = pipeline.parts
    modules = {"units": parts.units, "llm": parts.llm, **dict(parts.speech.named_children())}
    weights = {name: list(module.parameters()) for name, module in modules.items()}
    return {
        "parts": {name: str(folder) for name, folder in pipeline.folders.items()} or "random weights",
        "parameters": {name: sum(weight.numel() for weight in found) for name, found in weights.items()},
        "dtypes": {name: str(found[0].dtype).removeprefix("torch.") for name, found in weights.items()},
        "language_model": parts.llm.config.model_type,
        "settings": asdict(pipeline.settings),
        "published_decoder": asdict(REFERENCE_DECODER),
    }
