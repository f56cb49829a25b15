"""Scores: figures of a folder of predictions, whole or as far as it has come, by any judge and any metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from usdm.asr.recogniser import Recogniser
from usdm.evaluation.baselines import ServiceReplies, baseline_facts, baseline_replies
from usdm.evaluation.judging import recognise
from usdm.evaluation.predictions import read_predictions, read_references, reference_digests
from usdm.evaluation.result_lines import Progress
from usdm.metrics.facts import surroundings
from usdm.metrics.figures import Figure, ItemValues, Metric, Prediction, Ratio, Reference, Value, figure_of
from usdm.metrics.table import figure_cell, markdown_table
from usdm.runs import read_run, write_text
from usdm.types import InputError

ITEMS_FILE = "items.jsonl"
SCORECARD_FILE = "scorecard.json"
TABLE_FILE = "scorecard.md"


@dataclass(frozen=True)
class Scorecard:
    """The figures of one folder of predictions."""

    figures: Mapping[str, Figure]
    groups: Mapping[str, Mapping[str, Figure]]  # by the value of the field that was asked for
    baselines: Mapping[str, Mapping[str, Figure]]  # replies that have nothing to do with the question
    items: int  # with a prediction
    failed: int
    missing: int  # items that the run has not come to yet
    truncated: Mapping[str, int]  # items whose stage met its token limit
    without_sound: int  # replies with no unit
    facts: Mapping[str, Any]  # judge, seed, versions, and what else the figures depend on

    def to_json(self) -> str:
        """The main numbers under flat names at the top, everything under `details`."""
        flat = {name: figure.value for name, figure in self.figures.items() if figure.value is not None}
        counts = {"items": self.items, "failed": self.failed, "missing": self.missing}
        return json.dumps({**counts, **flat, "details": asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        header = ["figure", "model", "items", "unjudged", *self.baselines, "what it is"]
        rows = [
            [
                name,
                figure_cell(figure),
                str(figure.items),
                str(figure.unjudged),
                *(figure_cell(baseline.get(name)) for baseline in self.baselines.values()),
                figure.about,
            ]
            for name, figure in self.figures.items()
        ]
        parts = [markdown_table(header, rows)]
        if self.groups:
            names = [name for name in self.figures if any(name in group for group in self.groups.values())]
            by = [[value, *(figure_cell(group.get(name)) for name in names)] for value, group in self.groups.items()]
            parts.append(markdown_table([str(self.facts["by"]), *names], by))
        cut = ", ".join(f"{stage} {count}" for stage, count in self.truncated.items()) or "none"
        missing = f" {self.missing} items are not there yet: this is a part of the run." if self.missing else ""
        parts.append(
            f"{self.items} items of {self.facts['dialogs']} dialogs, {self.failed} failed, {self.without_sound} silent"
            f"; cut off at the token limit: {cut}.{missing} Judge: {self.facts['judge']}. Intervals are 95 % "
            f"(bootstrap over dialogs). Baselines' replies come from {self.facts['baselines_from']}. Seed "
            f"{self.facts['seed']}."
        )
        return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Baselines:
    """Where the replies come from that answer no question; see `baseline_replies`."""

    training_replies: Sequence[str] = ()
    service_replies: ServiceReplies | None = None


@dataclass(frozen=True)
class Scored:
    """What a folder of scores says of its items: to be held against another's."""

    folder: Path
    items: list[ItemValues]
    digests: Mapping[str, str]  # what each item depends on
    judge: str  # its identity
    figures: Mapping[str, Mapping[str, Any]]  # `Figure` as a mapping, by name
    facts: Mapping[str, Any] = field(default_factory=dict)


def score(
    folder: str | Path,
    asr: Recogniser,
    metrics: Mapping[str, Metric],
    *,
    by: str | None = None,
    baselines: Baselines = Baselines(),  # noqa: B008 (frozen)
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Scorecard:
    """Judge what is in a folder of predictions, and write `scorecard.json`, `scorecard.md` and `items.jsonl` there.

    What the judge heard is kept in `recognised.jsonl`, so that other metrics on the same sounds cost nothing more.

    Args:
        metrics: by name.
        by: a field of the references, such as "speaker": the figures for each of its values too.
        baselines: their replies are scored by the metrics that look at text alone.
        seed: of the intervals and the random baselines.
        progress: called with the number of sounds judged and of all that are new.

    Raises:
        InputError: there are no predictions, two metrics give the same figure, or there is no field `by`.
    """
    folder = Path(folder)
    references = read_references(folder)
    every = {key: prediction for key, prediction in read_predictions(folder).items() if key in references}
    if by is not None and not all(hasattr(reference, by) for reference in references.values()):
        raise InputError(f"by={by}: the references have {', '.join(Reference.__dataclass_fields__)}")
    good = {key: prediction for key, prediction in every.items() if prediction.error is None}
    own = {key: references[key] for key in good}
    predictions, own = recognise(folder, good, own, asr, progress)
    failed, owners = len(every) - len(good), _owners(metrics, predictions, own)
    items = {key: _values(predictions[key], own[key], metrics) for key in predictions}
    groups: dict[str, list[ItemValues]] = {}
    for key, item in items.items():
        if by is not None:
            groups.setdefault(str(getattr(own[key], by)), []).append(item)
    run = read_run(folder)
    card = Scorecard(
        figures=_figures(list(items.values()), failed, owners, seed),
        groups={value: _figures(group, 0, owners, seed) for value, group in sorted(groups.items())},
        baselines={
            name: {key: figure for key, figure in _figures(rows, 0, owners, seed).items() if figure.items}
            for name, rows in _baselines(own, metrics, baselines, seed).items()
        },
        items=len(good),
        failed=failed,
        missing=len(references) - len(every),
        truncated=dict(Counter(stage for each in good.values() for stage in each.truncated)),
        without_sound=sum(each.audio is None for each in good.values()),
        facts={
            "judge": asr.name,
            "judge_identity": asr.identity,
            "by": by,
            "seed": seed,
            "dialogs": len({reference.dialog for reference in own.values()}),
            "system": {} if run is None else {"settings": run.settings, "inputs": run.inputs, "command": run.command},
            **baseline_facts(
                [reference.dialog for reference in own.values()], baselines.training_replies, baselines.service_replies
            ),
            **surroundings(),
        },
    )
    rows = [_row(predictions[key], own[key], item) for key, item in items.items()]
    rows += [{"id": key, "error": each.error} for key, each in every.items() if each.error is not None]
    write_text(folder / ITEMS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(folder / TABLE_FILE, card.to_markdown())
    write_text(folder / SCORECARD_FILE, card.to_json())
    return card


def read_scored(folder: str | Path) -> Scored:
    """Raises InputError if there are no scores."""
    folder = Path(folder)
    path = folder / SCORECARD_FILE
    try:
        details = json.loads(path.read_text(encoding="utf-8"))["details"]
        rows = [json.loads(line) for line in (folder / ITEMS_FILE).read_text(encoding="utf-8").splitlines()]
        items = [
            ItemValues(row["id"], row["dialog"], {name: _read_value(value) for name, value in row["values"].items()})
            for row in rows
            if row.get("error") is None
        ]
        facts, figures = details["facts"], details["figures"]
        # Questions with options have no set of dialogs beside them: their items say it themselves.
        own = {row["id"]: row["digest"] for row in rows if "digest" in row}
        return Scored(folder, items, own or reference_digests(folder), facts["judge_identity"], figures, facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no scores ({error!r}); give a folder that `usdm score` has judged") from error


def _read_value(value: Any) -> Value:
    return Ratio(*value) if isinstance(value, list) else value


def _row(prediction: Prediction, reference: Reference, item: ItemValues) -> dict[str, Any]:
    texts = {"user_text": reference.user_text, "reference": reference.agent_text, "dialog": reference.dialog}
    said = {"transcript": prediction.user_text, "reply": prediction.agent_text, "heard": prediction.recognised}
    sound = None if prediction.audio is None else prediction.audio.name
    return {"id": item.id, **texts, **said, "audio": sound, "values": dict(item.values)}


def _values(prediction: Prediction, reference: Reference, metrics: Mapping[str, Metric]) -> ItemValues:
    values: dict[str, Value] = {}
    for metric in metrics.values():
        values |= metric(prediction, reference)
    return ItemValues(reference.id, reference.dialog, values)


def _owners(
    metrics: Mapping[str, Metric], predictions: Mapping[str, Prediction], references: Mapping[str, Reference]
) -> dict[str, Metric]:
    """The metric of each figure. Raises InputError if it has two."""
    owners: dict[str, tuple[str, Metric]] = {}
    for name, metric in metrics.items():
        figures = {figure: None for key in predictions for figure in metric(predictions[key], references[key])}
        for figure in figures:
            if figure in owners:
                raise InputError(f"metric.{name} and metric.{owners[figure][0]} both give {figure}: choose one of them")
            owners[figure] = name, metric
    return {figure: metric for figure, (_, metric) in owners.items()}


def _figures(items: Sequence[ItemValues], failed: int, owners: Mapping[str, Metric], seed: int) -> dict[str, Figure]:
    found = {name: figure_of(name, items, failed, metric, seed) for name, metric in owners.items()}
    return {name: figure for name, figure in found.items() if figure.items or figure.unjudged}


def _baselines(
    references: Mapping[str, Reference], metrics: Mapping[str, Metric], baselines: Baselines, seed: int
) -> dict[str, list[ItemValues]]:
    """Values of replies in text alone."""
    every = [replace(reference, user_recognised=None, agent_recognised=None) for reference in references.values()]
    texts, dialogs = [each.agent_text for each in every], [each.dialog for each in every]
    replies = baseline_replies(texts, dialogs, baselines.training_replies, baselines.service_replies, seed)
    return {
        name: [
            _values(Prediction(each.id, agent_text=reply), each, metrics)
            for each, reply in zip(every, said, strict=True)
        ]
        for name, said in replies.items()
    }
