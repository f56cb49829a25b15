"""A classifier of user turns: a language model's state after a turn, and a head on it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from usdm.chain import bundle_folder, embedded_models
from usdm.cli import Figures
from usdm.cli.training import show_result
from usdm.config import arguments
from usdm.training.classifier import ClassifierTask
from usdm.training.loop import train


def run(config: DictConfig) -> Figures:
    disable_progress_bar()  # of every file that is read
    given = arguments(config)
    loop, output_dir, overwrite = (given.pop(key) for key in ("loop", "output_dir", "overwrite"))
    task = ClassifierTask(language_model(given.pop("pretrained")), **given, steps=loop.steps)
    figures = train(task, loop, output_dir, overwrite=overwrite)
    show_result(figures, output_dir)
    return figures


def language_model(name: str) -> Path:
    """The folder of an embedded model's language model, or the one that is given."""
    return bundle_folder(name) / "llm" if name in embedded_models() else Path(name)
