"""The finished parts as one folder that the pipeline loads, with model cards."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.config import arguments
from usdm.training.package import package_model


def run(config: DictConfig) -> None:
    packaged = package_model(**arguments(config))
    print(f"{packaged.bytes / 1e6:.1f} MB of weights in {packaged.folder}")
