"""The language model reinforced by a reward for whole replies: GRPO."""

from __future__ import annotations

from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from usdm.cli import Figures
from usdm.cli.training import show_result
from usdm.config import arguments
from usdm.training.reinforcement import reinforce


def run(config: DictConfig) -> Figures:
    disable_progress_bar()  # of every file that is read or written
    own = {key: value for key, value in arguments(config).items() if key != "seed"}  # which the loop has
    figures = reinforce(**own)
    show_result(figures, config.output_dir)
    return figures
