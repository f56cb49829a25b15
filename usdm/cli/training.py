"""What the training verbs share."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.training.loop import train


def train_part(config: DictConfig) -> Figures:
    """Train `config.task` with the loop of encoder, decoder and vocoder."""
    task, settings = (instantiate(part, _convert_="all") for part in (config.task, config.loop))
    figures = train(task, settings, config.output_dir, overwrite=config.overwrite)
    show_result(figures, config.output_dir)
    return figures


def show_result(figures: Figures, output_dir: str) -> None:
    for name, value in figures.items():
        print(f"{name} {value:.4g}")
    print(f"the finished part lies in {output_dir}/model")
