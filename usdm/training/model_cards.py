"""Model cards: what a part is, what it learnt from, how good it is, what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_WHAT = {
    "units": (
        "Unit extractor",
        "Speech at 16 kHz to discrete units: an encoder in `transformers`' layout and the nearest k-means centroid.",
        ("encoder",),
        'usdm.units.UnitExtractor.from_pretrained("{folder}")',
    ),
    "llm": (
        "Speech-text language model",
        "A Mistral-architecture causal language model over one vocabulary of text pieces and speech units.",
        ("pretrain", "finetune"),
        'transformers.AutoModelForCausalLM.from_pretrained("{folder}")',
    ),
    "decoder": (
        "Unit decoder",
        "Units to 80-band log-mels at 22,050 / 256 Hz by conditional flow matching (Voicebox).",
        ("decoder",),
        'usdm.decoder.UnitDecoder.from_pretrained("{folder}")',
    ),
    "vocoder": (
        "Vocoder",
        "80-band log-mels to sound at 22,050 Hz: ConvNeXt blocks and an inverse STFT (Vocos).",
        ("vocoder",),
        'usdm.vocoder.load_vocoder("{folder}")',
    ),
}


_UNIT_OF_ENDING = {
    "_wer": "errors for each word said",
    "_gap": "errors for each word said, more than the ceiling",
    "_meteor": "score, 0 to 1",
    "_meteor_exact_stem": "score, 0 to 1",
    "_rouge_l": "score, 0 to 1",
    "_false_alarms": "words heard where nothing is said",
}
_UNITS = {
    "items": "exchanges",
    "failed": "exchanges",
    "refused": "share of the replies",
    "refused_references": "share of the set's own replies",
    "real_time_factor": "seconds of work for a second of reply",
    "answer_seconds": "seconds of work, median",
    "answer_lasts": "seconds of reply, median",
}


def part_card(name: str, parameters: int, records: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    """The card of one part; `records` are `training.json` by run."""
    title, what, runs, load = _WHAT[name]
    lines = [
        *_front_matter(),
        f"# {title} of the embedded model",
        "",
        what,
        "",
        f"{parameters:,} parameters, stored as float16.",
        "",
        "```python",
        load.format(folder="usdm/models/tiny/" + name),
        "```",
        "",
    ]
    lines += [line for run in runs if run in records for line in _training_lines(run, records[run])]
    return "\n".join([*lines, *_fact_lines(facts)])


def bundle_card(
    parameters: Mapping[str, int],
    size: int,
    records: Mapping[str, Any],
    facts: Mapping[str, str],
    scorecard: Mapping[str, Any] | None,
    tables: Sequence[str] = (),
    curves: Mapping[str, str] | None = None,
) -> str:
    """The card of the whole model; `size` is that of the weights in bytes, `curves` are pictures by run."""
    lines = [
        *_front_matter(),
        "# The embedded model",
        "",
        "A spoken dialog model small enough to ship inside the package: the same classes as the published system, "
        "at toy size, trained by this repository's recipe (`experiment=tiny`).",
        "",
        f"Weights: {size / 1e6:.1f} MB. Parameters: "
        + ", ".join(f"{name} {count:,}" for name, count in parameters.items())
        + ".",
        "",
    ]
    if scorecard is not None:
        lines += ["## Figures", "", "Held-out dialogs, `usdm evaluate`:", "", *_table(scorecard), ""]
    lines += [line for table in tables for line in (table.strip(), "")]
    for run, record in records.items():
        lines += _training_lines(run, record)
        if curves and run in curves:
            lines += [f"![loss curves of {run}]({curves[run]})", ""]
    return "\n".join([*lines, *_fact_lines(facts)])


def _front_matter() -> list[str]:
    return ["---", "license: cc-by-sa-4.0", "language: en", "tags: [speech, spoken-dialog, usdm]", "---", ""]


def _training_lines(run: str, record: Mapping[str, Any]) -> list[str]:
    settings = record.get("settings", {})
    lines = [f"## Training: {run}", ""]
    for name, value in (
        ("steps", record.get("steps", settings.get("steps"))),
        ("hours", record.get("hours")),
        ("device", record.get("device")),
        ("learning rate", settings.get("learning_rate")),
        ("seed", settings.get("seed")),
    ):
        if value is not None:
            lines.append(f"- {name}: {_number(value)}")
    lines += [f"- {name}: {_number(value)}" for name, value in record.get("validation", {}).items()]
    return [*lines, ""]


def _table(scorecard: Mapping[str, Any]) -> list[str]:
    rows = ["| figure | value | unit |", "|---|---|---|"]
    return rows + [
        f"| {name} | {_number(value)} | {_unit(name)} |"
        for name, value in scorecard.items()
        if isinstance(value, int | float)
    ]


def _unit(figure: str) -> str:
    """Of a figure of the scorecard; a metric of somebody's own has its own."""
    ending = next((ending for ending in _UNIT_OF_ENDING if figure.endswith(ending)), "")
    return _UNITS.get(figure) or _UNIT_OF_ENDING.get(ending, "as its metric gives it")


def _fact_lines(facts: Mapping[str, str]) -> list[str]:
    return [line for heading, text in facts.items() for line in (f"## {heading}", "", text.strip(), "")]


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
