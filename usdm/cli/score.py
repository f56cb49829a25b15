"""Figures of predictions, by any judge and any metrics."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.model import load_asr
from usdm.data.speech_corpus import read_speech_corpora
from usdm.evaluation import Baselines, Scorecard, score
from usdm.evaluation.baselines import read_dialogs_file
from usdm.evaluation.predictions import read_references
from usdm.metrics.figures import Metric


def run(config: DictConfig) -> Figures:
    references = read_references(config.predictions)  # what is wrong with the input is told before a judge is loaded
    given = baselines(config)
    if given.service_replies is not None:
        given.service_replies.check([reference.dialog for reference in references.values()])
    judge = load_asr(config)
    with bar("sounds judged") as progress:
        card = score(
            config.predictions,
            judge,
            metrics(config),
            by=config.by,
            baselines=given,
            seed=config.seed,
            progress=progress,
        )
    print(card.to_markdown())
    print(f"written to {config.predictions}")
    return figures_of(card)


def metrics(config: DictConfig) -> dict[str, Metric]:
    """By name. Raises InputError if one cannot be built."""
    return {str(name): instantiate(node, _convert_="all") for name, node in config.metric.items()}


def baselines(config: DictConfig) -> Baselines:
    """Raises InputError if a file cannot be read."""
    replies = []
    if config.training_corpus is not None:
        turns = read_speech_corpora([config.training_corpus], "train")
        replies = [turn.text for turn in turns if turn.role == "agent" and turn.text]
    services = None if config.dialogs_file is None else read_dialogs_file(config.dialogs_file)
    return Baselines(replies, services)


def figures_of(card: Scorecard) -> Figures:
    return {name: figure.value for name, figure in card.figures.items() if figure.value is not None}
