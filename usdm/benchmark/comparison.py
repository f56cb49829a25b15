"""From what was measured to figures: ours beside the published procedure's, pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, median

from usdm.benchmark.answers import LIVE, REFERENCE, STREAMED, WHOLE, Run
from usdm.benchmark.decoding import DecodingSpeed
from usdm.benchmark.figures import Figure, figure
from usdm.benchmark.load import BatchRate, Load
from usdm.benchmark.machine import Peak
from usdm.tokens.layout import STAGES

Value = Callable[[Run], float]


def compare(
    runs: Sequence[Run],
    load: Sequence[Load],
    batch: BatchRate,
    decoding: DecodingSpeed,
    memory: Mapping[str, Peak],
) -> Iterator[Figure]:
    """Every figure, in the order in which a reader asks for them."""
    yield _paired("first sound, question heard while spoken", runs, LIVE, lambda run: run.first_sound)
    yield _paired("first sound, question as a recording", runs, STREAMED, lambda run: run.first_sound)
    yield _paired("whole reply", runs, WHOLE, lambda run: run.seconds)
    spoken = [run for run in runs if _lasting(runs, run)]
    if spoken:
        yield _paired("real-time factor", spoken, WHOLE, lambda run: run.seconds / run.reply_seconds, unit="")
    yield _paired("units of the question", runs, WHOLE, lambda run: run.stages["units"])
    yield _paired("language model", runs, WHOLE, lambda run: sum(run.stages.get(stage, 0.0) for stage in STAGES))
    if spoken:
        yield _paired("decoder and vocoder", spoken, WHOLE, lambda run: run.stages["decode"] + run.stages["vocode"])
    yield figure("language model, tokens", "1/s", [decoding.reference], [decoding.chain], more_is_better=True)
    for level in load:
        for name in ("p50", "p95"):
            both = getattr(level.reference, name), getattr(level.ours, name)
            yield figure(f"whole reply, {level.concurrency} at once, {name}", "s", [both[0]], [both[1]])
    yield figure(
        f"batch of {batch.questions}, replies",
        "1/s",
        [batch.published_replies_per_second],
        [batch.replies_per_second],
        more_is_better=True,
    )
    for name, where in (("resident", "main memory"), ("cuda", "GPU memory")):
        peaks = [getattr(memory[way], name) for way in (REFERENCE, STREAMED)]
        if None not in peaks:
            yield figure(f"most {where} in use", "MB", [peaks[0] / 1e6], [peaks[1] / 1e6])


def stage_medians(runs: Sequence[Run], procedure: str) -> dict[str, float]:
    """Median seconds by stage."""
    own = [run.stages for run in runs if run.procedure == procedure]
    return {
        stage: median(stages.get(stage, 0.0) for stages in own) for stage in dict.fromkeys(k for s in own for k in s)
    }


def same_units(runs: Sequence[Run], procedure: str) -> float:
    """Share of replies with the very units that the published procedure wrote."""
    return fmean(run.same_units for run in runs if run.procedure == procedure)


def _paired(name: str, runs: Sequence[Run], ours: str, value: Value, unit: str = "s") -> Figure:
    """Runs of the same question in the same repeat are pairs; `runs` has them in the same order."""
    sides = ([value(run) for run in runs if run.procedure == procedure] for procedure in (REFERENCE, ours))
    return figure(name, unit, *sides)


def _lasting(runs: Sequence[Run], run: Run) -> bool:
    """Whether no procedure answered this question with silence."""
    return all(other.units for other in runs if (other.question, other.repeat) == (run.question, run.repeat))
