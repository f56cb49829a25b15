"""A reward model of pairs of replies: which of two is better."""

from __future__ import annotations

from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from usdm.cli import Figures
from usdm.cli.training import show_result
from usdm.config import arguments
from usdm.training.reward import train_reward


def run(config: DictConfig) -> Figures:
    disable_progress_bar()  # of every file that is read or written
    own = {key: value for key, value in arguments(config).items() if key != "seed"}  # which the loop has
    figures = train_reward(**own)
    show_result(figures, config.output_dir)
    return figures
