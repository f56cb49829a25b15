"""What the training verbs share."""

from __future__ import annotations

from collections.abc import Mapping

from hydra.utils import instantiate
from omegaconf import DictConfig

from usdm.training.loop import train


def train_part(config: DictConfig) -> None:
    """Train `config.task` with the loop of encoder, decoder and vocoder."""
    task, settings = (instantiate(part, _convert_="all") for part in (config.task, config.loop))
    show_result(train(task, settings, config.output_dir), config.output_dir)


def show_result(figures: Mapping[str, float], output_dir: str) -> None:
    for name, value in figures.items():
        print(f"{name} {value:.4g}")
    print(f"the finished part lies in {output_dir}/model")
