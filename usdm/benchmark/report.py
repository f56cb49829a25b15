"""A benchmark as a table for the console and a page, and as a picture."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from usdm.benchmark.answers import LISTENING, LIVE, REFERENCE, STREAMED, WHOLE
from usdm.benchmark.benchmark import Benchmark
from usdm.benchmark.figures import Figure
from usdm.metrics.table import NONE, markdown_table

PLOT_FILE = "benchmark.png"
LABELS = {REFERENCE: "published", WHOLE: "whole reply", STREAMED: "streamed", LIVE: "streamed,\nheard live"}
COLOURS = {"reference": "#94a3b8", "ours": "#0f766e"}


def benchmark_table(result: Benchmark) -> str:
    """Every figure with its ratio, and what the figures rest on."""
    rows = [
        [row.name, _value(row.reference, row.unit), _value(row.ours, row.unit), _ratio(row)] for row in result.figures
    ]
    parts = [markdown_table(["figure", "published procedure", "ours", "ratio"], rows), _stages(result), _notes(result)]
    return "\n\n".join(parts) + "\n"


def save_plot(result: Benchmark, folder: str | Path) -> Path:
    """Write `benchmark.png`: where the time of one reply goes, and how long replies take when many ask."""
    picture = Picture(figsize=(11, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(picture)
    stages, load = picture.subplots(1, 2)
    _draw_stages(stages, result)
    _draw_load(load, result)
    path = Path(folder) / PLOT_FILE
    picture.savefig(path)
    return path


def _draw_stages(axes: Axes, result: Benchmark) -> None:
    names = [stage for stage in dict.fromkeys(s for row in result.stages.values() for s in row) if stage != LISTENING]
    ways = list(result.stages)
    left = [0.0] * len(ways)
    for stage in names:
        widths = [result.stages[way].get(stage, 0.0) for way in ways]
        axes.barh([LABELS[way] for way in ways], widths, left=left, label=stage)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, way in enumerate(ways):
        heard = median(run.first_sound for run in result.runs if run.procedure == way)
        axes.plot(heard, place, "k|", markersize=18, label="first sound" if place == 0 else None)
    axes.invert_yaxis()
    axes.set_xlabel("seconds after the question's end (medians)")
    axes.set_title("one question at a time", loc="left")
    axes.legend(fontsize=8)


def _draw_load(axes: Axes, result: Benchmark) -> None:
    levels = [str(level.concurrency) for level in result.load]
    for side in ("reference", "ours"):
        waits = [getattr(level, side) for level in result.load]
        axes.plot(levels, [wait.p50 for wait in waits], "o-", color=COLOURS[side], label=f"{side}, p50")
        axes.plot(levels, [wait.p95 for wait in waits], "o--", color=COLOURS[side], label=f"{side}, p95")
    axes.set_yscale("log")
    axes.set_xlabel("questions at once")
    axes.set_ylabel("seconds to the whole reply")
    axes.set_title("under load", loc="left")
    axes.legend(fontsize=8)


def _stages(result: Benchmark) -> str:
    names = list(dict.fromkeys(stage for row in result.stages.values() for stage in row))
    rows = [
        [LABELS[way].replace("\n", " "), *(f"{row[name]:.3f}" if name in row else NONE for name in names)]
        for way, row in result.stages.items()
    ]
    return markdown_table(["seconds by stage (medians)", *names], rows)


def _notes(result: Benchmark) -> str:
    facts, decoding = result.facts, result.decoding
    machine, model, settings = facts["machine"], facts["model"], facts["settings"]
    same = ", ".join(f"{LABELS[way].replace(chr(10), ' ')} {share:.0%}" for way, share in result.same_units.items())
    sizes = ", ".join(
        f"{name} {count / 1e6:.1f} M {model['dtypes'][name]}" for name, count in model["parameters"].items()
    )
    return (
        f"Ratio: how many times better ours is, the median over pairs and its 95 % interval (bootstrap). "
        f"{facts['questions']['count']} questions of {facts['questions']['seconds']:.1f} s (median), each answered "
        f"{settings['repeats']} times by every procedure in alternating order, after {settings['warmup']} answers for "
        f"warming up; {settings['rounds']} questions of everybody who asks at once. The published procedure answers "
        "one at a time, ours up to "
        f"{settings['capacity']} together; its batch rate is from {result.batch.published_questions} questions. To "
        f"{result.batch.without_reply} of the batch the model says nothing.\n"
        f"Replies with the published procedure's very units: {same}.\n"
        f"Decode loop: {decoding.chain:.0f} tokens a second; {decoding.share_of_bound:.0%} of what reading "
        f"{decoding.weight_bytes / 1e6:.0f} MB of weights at {decoding.bandwidth / 1e9:.1f} GB/s allows, and "
        f"{decoding.share_of_forward:.0%} of the model's bare forward.\n"
        f"{machine.get('gpu') or machine['processor']}, {machine['usable_cores']} cores, {machine['threads']} threads, "
        f"torch {machine['versions']['torch']}, transformers {machine['versions']['transformers']}; {sizes}; decoder "
        f"{_decoder(model['settings']['decoder'])} beside the published {_decoder(model['published_decoder'])}."
    )


def _decoder(settings: dict[str, object]) -> str:
    return f"{settings['steps']} {settings['solver']}, guidance {settings['guidance']}"


def _value(value: float, unit: str) -> str:
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 1 else 3
    return f"{value:.{digits}f} {unit}".rstrip()


def _ratio(row: Figure) -> str:
    if row.low is None or row.high is None:
        return f"{row.ratio:.2f}"
    return f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})"
