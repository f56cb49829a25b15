"""Held-out dialogs through the whole chain, scored and written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from usdm.asr.recogniser import Recogniser
from usdm.chain import SpokenDialogPipeline
from usdm.evaluation.baselines import ServiceReplies, baseline_facts
from usdm.evaluation.examples import save_examples
from usdm.evaluation.held_out import read_held_out, spread
from usdm.evaluation.predictions import Synthesiser, run_items
from usdm.evaluation.result_lines import Progress
from usdm.evaluation.scorecard import Scorecard, summarise
from usdm.evaluation.scorecard_table import scorecard_table
from usdm.metrics.facts import surroundings
from usdm.runs import write_text

ITEMS_FILE = "items.jsonl"
SCORECARD_FILE = "scorecard.json"
TABLE_FILE = "scorecard.md"


def evaluate(
    pipeline: SpokenDialogPipeline,
    held_out: str | Path,
    recogniser: Recogniser,
    output_dir: str | Path,
    *,
    chain: str | None = None,
    limit: int | None = None,
    training_replies: Sequence[str] = (),
    service_replies: ServiceReplies | None = None,
    refusal_phrase: str | None = None,
    synthesiser: Synthesiser | None = None,
    examples: int = 0,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
) -> Scorecard:
    """Send held-out dialogs through the whole chain and score what comes back.

    Writes `items.jsonl` (a row an item, reused by a later run of the same model, settings and set),
    `scorecard.json`, `scorecard.md`, and with `examples` pictures and sound of that many items.

    Args:
        held_out: folder as `read_held_out` takes it.
        chain: the layout to answer by, as `SpokenDialogPipeline.respond` takes it; how tokens and mels are drawn
            is the pipeline's `settings`.
        limit: so many dialogs, spread evenly over the set; None takes all.
        training_replies: agent turns of the training set, from which the baselines' replies come; by default
            they are those of `service_replies`, or else come from the held-out set itself, which flatters them.
        service_replies: training replies by service, for the baseline that answers by any of the same service.
        refusal_phrase: counted in replies, such as "did not understand"; None counts nothing.
        synthesiser: says a reply's text, as the ceiling of the spoken reply; by default the recordings of the
            set's agent turns are the ceiling, which are other sentences.
        seed: of the model's sampling, the random baseline and the intervals.
        facts: what else is to be found beside the figures, such as the command.
        progress: called with the number of items done and of all.

    Raises:
        InputError: the set is missing or wrong, or not made from the dialogs of `service_replies`. A failing item
            does not raise: see `Scorecard.failed`.
    """
    items = spread(read_held_out(held_out), limit)
    dialogs = list(dict.fromkeys(item.dialog for item in items))
    if service_replies is not None:
        service_replies.check(dialogs)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    predictions = run_items(
        pipeline,
        items,
        recogniser,
        folder / ITEMS_FILE,
        chain=chain,
        seed=seed,
        synthesiser=synthesiser,
        progress=progress,
    )
    about = {
        "model": pipeline.fingerprint,
        "chain": chain,
        "generation": asdict(pipeline.settings),
        "recogniser": recogniser.name,
        "seed": seed,
        "dialogs": len(dialogs),
        **baseline_facts(dialogs, training_replies, service_replies),
        "refusal_phrase": refusal_phrase,
        "ceiling": "a synthesiser saying the same replies" if synthesiser else "recordings of the agent turns",
    }
    scorecard = summarise(
        predictions,
        training_replies,
        seed,
        {**(facts or {}), **about, **surroundings()},
        service_replies=service_replies,
        refusal_phrase=refusal_phrase,
    )
    save_examples(pipeline, items[:examples], folder / "examples", chain, seed)
    write_text(folder / TABLE_FILE, scorecard_table(scorecard))
    write_text(folder / SCORECARD_FILE, scorecard.to_json())
    return scorecard
