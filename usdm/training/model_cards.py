"""Model cards of a few lines: what a part is, how to load it, how good it is, its data, licence and limits.

And the record of a model's training, which is for whoever wants to train another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

_WHAT = {
    "units": (
        "Unit extractor",
        "Speech at 16 kHz to discrete units: an encoder in `transformers`' layout and the nearest k-means centroid.",
        'usdm.units.UnitExtractor.from_pretrained("{folder}")',
    ),
    "llm": (
        "Speech-text language model",
        "A Mistral-architecture causal language model over one vocabulary of text pieces and speech units.",
        'transformers.AutoModelForCausalLM.from_pretrained("{folder}")',
    ),
    "decoder": (
        "Unit decoder",
        "Units to 80-band log-mels at 22,050 / 256 Hz by conditional flow matching (Voicebox).",
        'usdm.decoder.UnitDecoder.from_pretrained("{folder}")',
    ),
    "vocoder": (
        "Vocoder",
        "80-band log-mels to sound at 22,050 Hz: ConvNeXt blocks and an inverse STFT (Vocos).",
        'usdm.vocoder.load_vocoder("{folder}")',
    ),
}


_UNIT_OF_ENDING = {
    "_wer": "errors for each word said",
    "_gap": "errors for each word said, more than the ceiling",
    "_cer": "errors for each character said",
    "_chrf": "score, 0 to 100",
    "_meteor": "score, 0 to 1",
    "_meteor_exact_stem": "score, 0 to 1",
    "_rouge_l": "score, 0 to 1",
    "_false_alarms": "words heard where nothing is said",
}
CARD_FIGURES = (  # on the card; the record has all
    "transcript_wer",
    "spoken_reply_wer",
    "reply_meteor",
    "reply_meteor_exact_stem",
    "reply_rouge_l",
)
CARD_FACTS = ("Data", "Licence", "Limits")  # headings of the card; others go into the record
_UNITS = {
    "items": "exchanges",
    "failed": "exchanges",
    "refused": "share of the replies",
    "refused_references": "share of the set's own replies",
    "real_time_factor": "seconds of work for a second of reply",
    "answer_seconds": "seconds of work, median",
    "answer_lasts": "seconds of reply, median",
}


def part_card(name: str, parameters: int, license_id: str, languages: Sequence[str] = ("en",)) -> str:
    """The card of one part. `license_id`: an SPDX identifier; `languages`: ISO 639-1 codes."""
    title, what, load = _WHAT[name]
    lines = [
        *_front_matter(license_id, languages),
        f"# {title}",
        "",
        what,
        "",
        f"{parameters:,} parameters, stored as float16. Figures, data and limits: the card in the folder above.",
        "",
        "```python",
        load.format(folder=f"MODEL/{name}"),
        "```",
    ]
    return "\n".join([*lines, ""])


def bundle_card(
    parameters: Mapping[str, int],
    size: int,
    facts: Mapping[str, str],
    license_id: str,
    scorecard: Mapping[str, Any] | None,
    languages: Sequence[str] = ("en",),
) -> str:
    """The card of the whole model; `size` is that of the weights in bytes."""
    lines = [
        *_front_matter(license_id, languages),
        "# A spoken dialog model",
        "",
        f"{size / 1e6:.1f} MB of weights in four parts: "
        + ", ".join(f"{name} {count:,} parameters" for name, count in parameters.items())
        + ".",
        "",
        "```python",
        'usdm.SpokenDialogPipeline.from_pretrained("MODEL")',
        "```",
        "",
    ]
    if scorecard is not None:
        shown = {name: scorecard[name] for name in CARD_FIGURES if name in scorecard}
        lines += [f"{scorecard['items']} held-out exchanges, `usdm evaluate`:", "", *_table(shown), ""]
    return "\n".join([*lines, *_fact_lines({name: facts[name] for name in CARD_FACTS if name in facts})])


def training_record(
    records: Mapping[str, Any],
    facts: Mapping[str, str],
    scorecard: Mapping[str, Any] | None,
    tables: Sequence[str] = (),
    curves: Mapping[str, str] | None = None,
) -> str:
    """How a model came about: all figures, tables, runs. `records` are `training.json`, `curves` pictures, by run."""
    lines = ["# Training record", ""]
    if scorecard is not None:
        lines += ["## Figures", "", "Held-out dialogs, `usdm evaluate`:", "", *_table(scorecard), ""]
    lines += [line for table in tables for line in (table.strip(), "")]
    for run, record in records.items():
        lines += _training_lines(run, record)
        if curves and run in curves:
            lines += [f"![loss curves of {run}]({curves[run]})", ""]
    return "\n".join([*lines, *_fact_lines({name: text for name, text in facts.items() if name not in CARD_FACTS})])


def _front_matter(license_id: str, languages: Sequence[str]) -> list[str]:
    told = languages[0] if len(languages) == 1 else list(languages)
    data = ModelCardData(license=license_id, language=told, tags=["speech", "spoken-dialog", "usdm"])
    return ["---", data.to_yaml(), "---", ""]


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
