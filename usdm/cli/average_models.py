"""The mean of several training runs' weights, as one model."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.config import arguments
from usdm.training.average import average_models


def run(config: DictConfig) -> None:
    print(f"The mean of {len(config.models)} models is in {average_models(**arguments(config))}")
