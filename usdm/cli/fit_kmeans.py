"""Clusters of the encoder's features: a finished unit extractor."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.cli.stage import numbers
from usdm.config import arguments
from usdm.training.kmeans import fit_kmeans


def run(config: DictConfig) -> Figures:
    quality = fit_kmeans(**arguments(config))
    print(f"phone purity {quality.phone_purity:.3f}, PNMI {quality.pnmi:.3f}, {quality.used_units} units in use")
    print(f"the unit extractor lies in {config.output_dir}/model")
    return numbers(quality)
