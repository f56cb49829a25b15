"""What the verbs share that train one part with `usdm.training.loop.train`."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from usdm.training.loop import train


def train_part(config: DictConfig) -> None:
    figures = train(
        instantiate(config.task, _convert_="all"),
        instantiate(config.loop, _convert_="all"),
        config.output_dir,
    )
    for name, value in figures.items():
        print(f"{name} {value:.4g}")
    print(f"the finished part lies in {config.output_dir}/model")
