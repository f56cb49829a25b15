"""Held-out dialogs through the whole chain, and any real recordings: a scorecard."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.asr.recogniser import Recogniser
from usdm.chain import SpokenDialogPipeline
from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.model import load_asr, load_pipeline
from usdm.cli.predict import PACKAGED_SET, fail_if_any, items, system
from usdm.cli.score import baselines, figures_of, metrics
from usdm.data.speech_corpus import Utterance
from usdm.evaluation import (
    Baselines,
    Scorecard,
    TranscriptScore,
    evaluate_recordings,
    predict,
    read_held_out,
    score,
    transcript_table,
)
from usdm.evaluation.examples import save_examples
from usdm.evaluation.held_out import HeldOutItem, spread
from usdm.evaluation.predictions import read_predictions, read_references
from usdm.evaluation.recordings import read_recordings
from usdm.types import InputError


def run(config: DictConfig) -> Figures:
    # What is wrong with the input is told before the model is loaded.
    if not config.dialogs and not config.recordings:
        raise InputError("dialogs=false: nothing is left to evaluate; give recordings=[FOLDER], or dialogs=true")
    found = items(config) if config.dialogs else []
    for folder in config.recordings:
        read_recordings(folder, dict(config.where), config.by)
    names = [Path(folder).resolve().name for folder in config.recordings]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"recordings: several folders are called {twice[0]}, by which figures are named; rename one")
    given = baselines(config)
    if given.service_replies is not None:
        given.service_replies.check([item.dialog for item in found])
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    judge = load_asr(config)
    pipeline = load_pipeline(config)
    failed, figures = 0, dict[str, float]()
    if config.dialogs:
        card = scorecard(config, pipeline, found, judge, given)
        print(card.to_markdown())
        failed, figures = card.failed, dict(figures_of(card))
    scores = [recordings_score(config, pipeline, folder, judge) for folder in config.recordings]
    if scores:
        print(transcript_table(scores))
    for one in scores:
        failed += one.failed
        figures |= {} if one.transcript is None else {f"{one.folder} WER": one.transcript.rate}
    print(f"written to {config.output_dir}")
    fail_if_any(failed, config.output_dir, figures)
    return figures


def scorecard(
    config: DictConfig,
    pipeline: SpokenDialogPipeline,
    found: list[HeldOutItem],
    judge: Recogniser,
    given: Baselines,
) -> Scorecard:
    folder = Path(config.output_dir)
    if not config.so_far:
        own = system(config.system, pipeline, config)
        with bar("dialogs") as progress:
            predict(own, found, folder, overwrite=config.overwrite, progress=progress)
    with bar("sounds judged") as progress:
        card = score(folder, judge, metrics(config), by="speaker", baselines=given, seed=config.seed, progress=progress)
    good = [each for each in read_predictions(folder).values() if each.error is None]
    save_examples(good[: config.examples], read_references(folder), folder / "examples")
    return card


def recordings_score(
    config: DictConfig, pipeline: SpokenDialogPipeline, folder: str, judge: Recogniser
) -> TranscriptScore:
    with bar(Path(folder).name) as progress:
        return evaluate_recordings(
            pipeline,
            folder,
            judge,
            config.output_dir,
            where=dict(config.where),
            by=config.by,
            limit=config.limit,
            seed=config.seed,
            so_far=config.so_far,
            overwrite=config.overwrite,
            progress=progress,
        )


def held_out_agent_turns(config: DictConfig) -> list[Utterance]:
    """The agent turns of `config.items` held-out dialogs, at even distances. Raises InputError if there are none."""
    number = config["items"]  # `config.items` is a method
    if number is not None and number < 1:
        raise InputError(f"items={number}: give 1 or more, or null for all")
    return [item.agent for item in spread(read_held_out(config.held_out or PACKAGED_SET), number)]
