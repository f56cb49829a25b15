"""What the training verbs share."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.lm import count_parameters
from usdm.training.loop import train

ROOM_TO_LOAD = 6  # bytes a parameter: float32, and what is converted to it


def train_part(config: DictConfig) -> Figures:
    """Train `config.task` with the loop of encoder, decoder and vocoder."""
    task, settings = (instantiate(part, _convert_="all") for part in (config.task, config.loop))
    figures = train(task, settings, config.output_dir, overwrite=config.overwrite)
    show_result(figures, config.output_dir)
    return figures


def loading_device(folder: str | Path) -> str:
    """Where one of several processes of a training loads a language model's weights to.

    Its own GPU where they have room there: in main memory there would be as many copies as processes.
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or not torch.cuda.is_available():
        return "cpu"
    free, _ = torch.cuda.mem_get_info(int(rank))
    return f"cuda:{rank}" if free >= ROOM_TO_LOAD * count_parameters(folder) else "cpu"


def show_result(figures: Figures, output_dir: str) -> None:
    for name, value in figures.items():
        print(f"{name} {value:.4g}")
    print(f"the finished part lies in {output_dir}/model")
