"""The language model on what it prefers of its own answers, in rounds of answering, judging and training."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from usdm.cli import Figures
from usdm.cli.training import show_result
from usdm.config import arguments
from usdm.training.self_training import self_train


def run(config: DictConfig) -> Figures:
    disable_progress_bar()  # of every file that is read or written
    figures: Mapping[str, float] = self_train(**arguments(config))
    show_result(figures, config.output_dir)
    return figures
