"""The mean of several training runs' weights, as one model."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.cli.stage import Stage
from usdm.training.average import average_models


def tell(folder: Path, config: DictConfig) -> None:
    print(f"The mean of {len(config.models)} models is in {folder}")


run = Stage(average_models, tell)
