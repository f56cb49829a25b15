"""The comparison of decoder settings as a Markdown table and a plot."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from usdm.chain import DecoderSampling
from usdm.evaluation.sampling_table import PUBLISHED, SamplingRow, SamplingTable
from usdm.metrics.table import NONE, markdown_table, rate_cell


def sampling_markdown(table: SamplingTable) -> str:
    """One line a setting, and which one is the cheapest that is not worse."""
    header = ["solver", "steps", "guidance", "temperature", "evaluations", "WER", "more errors than published"]
    header += ["speaker similarity", "mel distance", "s per s of sound", "not worse"]
    facts = table.facts
    similarity = f"similarity by {facts['speaker_encoder']} to {facts['similarity_to']}; "
    return "\n\n".join(
        [
            markdown_table(header, [_cells(row) for row in table.rows]),
            f"Cheapest that is not worse than the published setting beyond noise: {name(table.cheapest.sampling)}.",
            f"{facts['items']} recordings as units and back; recogniser {facts['recogniser']}; "
            f"{similarity if facts['speaker_encoder'] else ''}mel distance is the mean absolute log-mel difference "
            "from the published setting's result, and its second line, under another seed, shows what noise alone "
            "does. Intervals are 95 % (bootstrap over dialogs, pairs redrawn together). "
            f"{facts['platform']}, {facts['threads']} threads, seed {facts['seed']}.\n",
        ]
    )


def name(sampling: DecoderSampling) -> str:
    """In words."""
    return (
        f"{sampling.solver}, {sampling.steps} steps, guidance {sampling.guidance:g}, "
        f"temperature {sampling.temperature:g}"
    )


def save_sampling_plot(table: SamplingTable, path: Path) -> None:
    """Word error rate, and similarity if there is one, over the number of evaluations; published ones as lines."""
    kinds = {"word error rate": [row.word_errors.rate for row in table.rows]}
    if table.rows[0].similarity is not None:
        kinds["speaker similarity"] = [row.similarity or 0.0 for row in table.rows]
    figure = Figure(figsize=(6 * len(kinds), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, values) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True):
        groups = dict.fromkeys(_group(row) for row in table.rows)
        for group in groups:
            points = sorted(
                (row.evaluations, value) for row, value in zip(table.rows, values, strict=True) if _group(row) == group
            )
            axis.plot(*zip(*points, strict=True), marker="o", label=group)
        axis.axhline(values[0], color="grey", linestyle=":")
        axis.set_xscale("log", base=2)
        axis.set_xlabel("evaluations of the estimator")
        axis.set_ylabel(title)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)


def _group(row: SamplingRow) -> str:
    sampling = row.sampling
    return f"{sampling.solver}, guidance {sampling.guidance:g}, temperature {sampling.temperature:g}"


def _cells(row: SamplingRow) -> list[str]:
    sampling, gap, alike = row.sampling, row.word_error_gap, row.similarity_gap
    return [
        sampling.solver,
        f"{sampling.steps}{f' (seed {row.seed})' if sampling == PUBLISHED else ''}",
        f"{sampling.guidance:g}",
        f"{sampling.temperature:g}",
        str(row.evaluations),
        rate_cell(row.word_errors),
        f"{100 * gap.gap:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})",
        NONE if alike is None else f"{row.similarity:.3f} ({alike.low:+.3f} to {alike.high:+.3f})",
        f"{row.mel_distance:.3f}",
        f"{row.seconds:.4f}",
        "yes" if row.not_worse else "no",
    ]
