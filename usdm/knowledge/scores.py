"""Figures of multiple choice: by subject, and over all of them, in the files that scores of dialogs have.

So `usdm compare_results`, `usdm gate` and `usdm report` take a folder of these as well.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any, Literal

from usdm.evaluation.scorecard import ITEMS_FILE, SCORECARD_FILE
from usdm.knowledge.choices import Choice
from usdm.knowledge.harness import HarnessItem
from usdm.knowledge.items import ChoiceItem
from usdm.metrics.facts import surroundings
from usdm.metrics.figures import Figure, ItemValues, Ratio, ratio
from usdm.metrics.intervals import ratio_of
from usdm.metrics.table import figure_cell, markdown_table
from usdm.runs import digest, write_text

Average = Literal["macro", "micro"]
TABLE_FILE = "knowledge.md"
Z = 1.959964  # of the normal distribution, for 95 %
AVERAGES = {"macro": "mean over subjects", "micro": "mean over questions"}


@dataclass(frozen=True)
class Answered:
    """One question with its figures."""

    subject: str
    values: ItemValues
    digest: str
    told: Mapping[str, Any]  # beside them, for who reads the items
    lower_is_better: frozenset[str] = frozenset()  # of its figures


@dataclass(frozen=True)
class KnowledgeScores:
    figures: Mapping[str, Figure]  # over all subjects
    subjects: Mapping[str, Mapping[str, Figure]]
    facts: Mapping[str, Any]

    def to_markdown(self) -> str:
        names = list(self.figures)
        rows = [
            [subject, str(max(figure.items for figure in figures.values())), *_cells(figures, names)]
            for subject, figures in self.subjects.items()
        ]
        total = str(max(figure.items for figure in self.figures.values()))
        rows.append([f"all ({self.facts['average']})", total, *_cells(self.figures, names)])
        told = "\n".join(f"- {name}: {value}" for name, value in self.facts.items() if isinstance(value, str | int))
        return f"{markdown_table(['subject', 'n', *names], rows)}\n\n{told}\n"


def of_harness(items: Sequence[HarnessItem]) -> list[Answered]:
    return [Answered(each.subject, each.values, each.digest, {}, each.lower_is_better) for each in items]


def of_choices(items: Sequence[ChoiceItem], choices: Sequence[Choice]) -> list[Answered]:
    return [_answered(item, choice) for item, choice in zip(items, choices, strict=True)]


def _answered(item: ChoiceItem, choice: Choice) -> Answered:
    told = {"question": item.question, "options": item.options, "answer": item.answer, "chosen": choice.chosen}
    told |= {"heard": choice.heard, "scores": choice.scores}
    values = ItemValues(item.id, item.cluster, {"accuracy": float(choice.chosen == item.answer)})
    return Answered(item.subject, values, digest([item.question, item.options, item.answer])[:16], told)


def score_knowledge(
    answered: Sequence[Answered], folder: Path, *, average: Average, judge: str, facts: Mapping[str, Any], seed: int
) -> KnowledgeScores:
    """Write `scorecard.json`, `items.jsonl` and `knowledge.md`.

    Args:
        average: over subjects (macro), or over questions (micro).
        judge: who says what is right; folders of different ones are not compared.
        facts: what else the figures depend on.
    """
    sizes = Counter(each.subject for each in answered)
    weighted = [_weighted(each, sizes[each.subject] if average == "macro" else 1) for each in answered]
    by_subject: defaultdict[str, list[Answered]] = defaultdict(list)
    for each in answered:
        by_subject[each.subject].append(each)
    scores = KnowledgeScores(
        {name: _figure(name, weighted, average, seed) for name in _names(answered)},
        {subject: {name: _of_subject(name, own, seed) for name in _names(own)} for subject, own in by_subject.items()},
        {"average": average, "judge": judge, "judge_identity": judge, **facts, "seed": seed, **surroundings()},
    )
    flat = {name: figure.value for name, figure in scores.figures.items()}
    card = {"items": len(answered), **flat, "details": asdict(scores)}
    write_text(folder / SCORECARD_FILE, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / ITEMS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in map(_row, weighted)))
    write_text(folder / TABLE_FILE, scores.to_markdown())
    return scores


def _names(answered: Sequence[Answered]) -> list[str]:
    return list(dict.fromkeys(name for each in answered for name in each.values.values))


def _weighted(answered: Answered, size: int) -> Answered:
    """Sums of these parts and wholes are a mean over subjects, however many questions each has."""
    values = {name: ratio(value) for name, value in answered.values.values.items() if value is not None}
    shares = {name: Ratio(value.part / size, value.whole / size) for name, value in values.items()}
    return replace(answered, values=replace(answered.values, values=shares))


def _figure(name: str, answered: Sequence[Answered], average: Average, seed: int) -> Figure:
    counted = [
        (each.values.cluster, ratio(value)) for each in answered if (value := each.values.values.get(name)) is not None
    ]
    value, low, high = ratio_of(counted, seed) or (None, None, None)
    lower = any(name in each.lower_is_better for each in answered)
    return Figure(value, low, high, len(counted), 0, 0, f"{name}, {AVERAGES[average]}", lower)


def _of_subject(name: str, answered: Sequence[Answered], seed: int) -> Figure:
    """Few questions, all right or all wrong, leave a bootstrap nothing to draw: so it is Wilson's interval."""
    figure = _figure(name, answered, "micro", seed)
    values = [value for each in answered if isinstance(value := each.values.values.get(name), float)]
    if not values or set(values) - {0.0, 1.0}:
        return figure
    low, high = wilson(sum(values), len(values))
    return replace(figure, low=low, high=high)


def wilson(right: float, number: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, extra = right / number, Z * Z / number
    middle = (share + extra / 2) / (1 + extra)
    half = Z * sqrt(share * (1 - share) / number + extra / number / 4) / (1 + extra)
    return max(0.0, middle - half), min(1.0, middle + half)


def _row(answered: Answered) -> dict[str, Any]:
    own = {"id": answered.values.id, "dialog": answered.values.cluster, "subject": answered.subject}
    return {**own, "digest": answered.digest, **answered.told, "values": dict(answered.values.values)}


def _cells(figures: Mapping[str, Figure], names: Sequence[str]) -> Iterator[str]:
    yield from (figure_cell(figures.get(name)) for name in names)
