"""Several models on the same held-out dialogs, as the paper compares its own (arXiv 2402.05706, ablations).

What a chain writes down is scored where it writes: a chain from units to units has no transcript and no text of its
reply. What a recogniser hears in the spoken reply is there for all of them. Differences to the first model are paired,
over the items that both have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usdm.asr.recogniser import Recogniser, RememberingRecogniser
from usdm.chain import SpokenDialogPipeline
from usdm.evaluation.baselines import ServiceReplies, baseline_facts, baseline_replies
from usdm.evaluation.held_out import HeldOutItem, read_held_out, spread
from usdm.evaluation.predictions import Prediction, run_items
from usdm.evaluation.result_lines import Progress
from usdm.metrics.facts import surroundings
from usdm.metrics.intervals import (
    Mean,
    MeanGap,
    WordErrorGap,
    WordErrorRate,
    mean_gap,
    mean_of,
    word_error_gap,
    word_error_rate,
)
from usdm.metrics.table import gap_cell, markdown_table, mean_cell, rate_cell
from usdm.metrics.text import WordErrors, meteor, rouge_l, word_errors
from usdm.types import InputError

ITEMS_FILE = "items.jsonl"
RATES = {"transcript": "transcript WER", "spoken_reply": "spoken reply WER"}
MEANS = {
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "heard_meteor": "METEOR as heard",
    "heard_rouge_l": "ROUGE-L as heard",
    "answer_seconds": "answer (s)",
}


@dataclass(frozen=True)
class Contender:
    """A model and the chain that it answers by; None is the one that it was trained on."""

    name: str
    load: Callable[[], SpokenDialogPipeline]  # called when its turn comes, so that one model is held at a time
    chain: str | None = None


@dataclass(frozen=True)
class ModelRow:
    """One model, or a baseline, over all items. None stands where it writes no such text."""

    name: str
    items: int  # scored
    failed: int
    without_sound: int  # replies with no unit: nothing is heard in them
    rates: Mapping[str, WordErrorRate | None]  # `RATES`
    means: Mapping[str, Mean | None]  # `MEANS`: against the reference reply, of the text and of what is heard; seconds
    gaps: Mapping[str, WordErrorGap | MeanGap | None]  # to the first row


@dataclass(frozen=True)
class ModelTable:
    rows: tuple[ModelRow, ...]  # models in their order, then baselines
    facts: Mapping[str, Any]

    @property
    def failed(self) -> int:
        return sum(row.failed for row in self.rows)

    def to_json(self) -> str:
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"rows": rows, "facts": self.facts}, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """Figures, differences to the first model, and what they rest on."""
        first, *others = self.rows
        figures = [*RATES.values(), *MEANS.values()]
        tables = [markdown_table(["model", *figures, "items"], [_cells(row) for row in self.rows])]
        if others:
            gaps = [[row.name, *(gap_cell(row.gaps[name]) for name in [*RATES, *MEANS])] for row in others]
            tables.append(markdown_table([f"difference to {first.name}", *figures], gaps))
        note = (
            f"Intervals are 95 % (bootstrap over {self.facts['dialogs']} dialogs), differences paired. METEOR and "
            "ROUGE-L hold replies against the dialogs' own; as heard: what the recogniser makes of the spoken reply, "
            "whose WER is against its own text; answer: all stages together, on a machine that must be quiet, since "
            "the models are run one after the other. "
            f"METEOR counts exact and stem matches, no synonyms. Baselines' replies come from "
            f"{self.facts['baselines_from']}. Recogniser {self.facts['recogniser']}, seed {self.facts['seed']}."
        )
        return "\n\n".join([*tables, note]) + "\n"


@dataclass(frozen=True)
class _Item:
    """What can be counted of one item."""

    dialog: str
    errors: Mapping[str, WordErrors]
    scores: Mapping[str, float]


def compare_models(
    contenders: Sequence[Contender],
    held_out: str | Path,
    recogniser: Recogniser,
    output_dir: str | Path,
    *,
    limit: int | None = None,
    training_replies: Sequence[str] = (),
    service_replies: ServiceReplies | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> ModelTable:
    """Send the same held-out dialogs through every model, one model after the other.

    Writes `<name>/items.jsonl` for each (a row an item, reused by a later run of the same model, chain and set).

    Args:
        contenders: the first is what the others are compared with.
        held_out, limit, training_replies, service_replies, seed: as for `usdm.evaluation.evaluate`.
        progress: called with the number of items done and of all, over all models.

    Raises:
        InputError: no contender, two of one name, a chain that does not exist, a held-out set as `evaluate` refuses
            it. A failing item does not raise: see `ModelTable.failed`.
    """
    names = [contender.name for contender in contenders]
    if not names or len(set(names)) < len(names):
        raise InputError(f"models={names}: give at least one, each under a name of its own")
    items = spread(read_held_out(held_out), limit)
    dialogs = list(dict.fromkeys(item.dialog for item in items))
    if service_replies is not None:
        service_replies.check(dialogs)
    remembering = RememberingRecogniser(recogniser)
    predictions: dict[str, list[Prediction]] = {}
    models: dict[str, Mapping[str, Any]] = {}
    for place, contender in enumerate(contenders):

        def move(done: int, total: int, before: int = place * len(items)) -> None:
            progress(before + done, len(contenders) * len(items))

        folder = Path(output_dir) / contender.name
        predictions[contender.name], models[contender.name] = _ask(contender, items, remembering, folder, seed, move)
    counted = {name: [_item(prediction) for prediction in found] for name, found in predictions.items()}
    references = [item.references[1] for item in items]
    own_dialogs = [item.dialog for item in items]
    for name, replies in baseline_replies(references, own_dialogs, training_replies, service_replies, seed).items():
        counted[name] = [
            _Item(dialog, {}, {"meteor": meteor(reference, reply), "rouge_l": rouge_l(reference, reply)})
            for dialog, reference, reply in zip(own_dialogs, references, replies, strict=True)
        ]
    first = counted[names[0]]
    rows = [_row(name, found, predictions.get(name, []), first, seed) for name, found in counted.items()]
    facts = {
        "models": models,
        "recogniser": recogniser.name,
        "seed": seed,
        "dialogs": len(dialogs),
        **baseline_facts(dialogs, training_replies, service_replies),
        **surroundings(),
    }
    return ModelTable(tuple(rows), facts)


def _ask(
    contender: Contender,
    items: Sequence[HeldOutItem],
    recogniser: Recogniser,
    folder: Path,
    seed: int,
    progress: Progress,
) -> tuple[list[Prediction], dict[str, Any]]:
    """A model's answers to all items, and what it is; it is let go of afterwards."""
    pipeline = contender.load()
    facts = {
        "model": pipeline.fingerprint,
        "chain": pipeline.parts.template.layout(contender.chain).name,
        "generation": asdict(pipeline.settings),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _warm_up(pipeline, items[0], contender.chain)
    predictions = run_items(
        pipeline,
        items,
        recogniser,
        folder / ITEMS_FILE,
        chain=contender.chain,
        seed=seed,
        synthesiser=None,
        progress=progress,
    )
    return predictions, facts


def _warm_up(pipeline: SpokenDialogPipeline, item: HeldOutItem, chain: str | None) -> None:
    """A model's first answer takes longer than those that follow: it must not count against the first model."""
    with suppress(InputError):  # where it cannot be answered, that is counted with the other items
        question = item.user.read()
        pipeline.respond(question.samples, question.sample_rate, chain=chain)


def _item(prediction: Prediction) -> _Item | None:
    """None of an item that failed."""
    if prediction.error is not None:
        return None
    errors = {}
    scores = {
        "heard_meteor": meteor(prediction.reference, prediction.reply_recognised),
        "heard_rouge_l": rouge_l(prediction.reference, prediction.reply_recognised),
        "answer_seconds": sum(prediction.timings.values()),
    }
    if prediction.transcript is not None:
        errors["transcript"] = word_errors(prediction.user_text, prediction.transcript)
    if prediction.reply is not None:
        errors["spoken_reply"] = word_errors(prediction.reply, prediction.reply_recognised)
        scores["meteor"] = meteor(prediction.reference, prediction.reply)
        scores["rouge_l"] = rouge_l(prediction.reference, prediction.reply)
    return _Item(prediction.dialog, errors, scores)


def _row(
    name: str,
    items: Sequence[_Item | None],
    predictions: Sequence[Prediction],
    first: Sequence[_Item | None],
    seed: int,
) -> ModelRow:
    scored = [item for item in items if item is not None]
    pairs = [(mine, its) for mine, its in zip(items, first, strict=True) if mine is not None and its is not None]
    rates: dict[str, WordErrorRate | None] = {}
    means: dict[str, Mean | None] = {}
    gaps: dict[str, WordErrorGap | MeanGap | None] = {}
    for figure in RATES:
        rates[figure] = word_error_rate([(i.dialog, i.errors[figure]) for i in scored if figure in i.errors], seed)
        both = [(mine, its) for mine, its in pairs if figure in mine.errors and figure in its.errors]
        gaps[figure] = word_error_gap(
            [(mine.dialog, mine.errors[figure]) for mine, _ in both],
            [(its.dialog, its.errors[figure]) for _, its in both],
            seed,
        )
    for figure in MEANS:
        known = [item for item in scored if figure in item.scores]
        means[figure] = mean_of([item.scores[figure] for item in known], [item.dialog for item in known], seed)
        both = [(mine, its) for mine, its in pairs if figure in mine.scores and figure in its.scores]
        gaps[figure] = (
            mean_gap(
                [mine.scores[figure] for mine, _ in both],
                [its.scores[figure] for _, its in both],
                [mine.dialog for mine, _ in both],
                seed,
            )
            if both
            else None
        )
    return ModelRow(
        name=name,
        items=len(scored),
        failed=len(items) - len(scored),
        without_sound=sum(prediction.error is None and prediction.reply_seconds == 0 for prediction in predictions),
        rates=rates,
        means=means,
        gaps=gaps,
    )


def _cells(row: ModelRow) -> list[str]:
    left = [f"{row.failed} failed"] if row.failed else []
    left += [f"{row.without_sound} without sound"] if row.without_sound else []
    items = f"{row.items} ({', '.join(left)})" if left else str(row.items)
    return [row.name, *map(rate_cell, row.rates.values()), *map(mean_cell, row.means.values()), items]
