"""The finished parts as one folder that the pipeline loads, with model cards."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli.stage import Stage
from usdm.training.package import PackagedModel, package_model


def tell(packaged: PackagedModel, config: DictConfig) -> None:
    print(f"{packaged.bytes / 1e6:.1f} MB of weights in {packaged.folder}")


run = Stage(package_model, tell)
