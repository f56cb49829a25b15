"""An encoder and its centroids, converted once to a folder that loads without unpickling."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.config import arguments
from usdm.units.conversion import convert_extractor


def run(config: DictConfig) -> None:
    extractor = convert_extractor(**arguments(config))
    print(f"{extractor.num_units} units, {extractor.unit_rate} a second, in {config.output_dir}")
