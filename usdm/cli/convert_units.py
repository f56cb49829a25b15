"""An encoder and its centroids, converted once to a folder that loads without unpickling."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli.stage import Stage
from usdm.units import UnitExtractor
from usdm.units.conversion import convert_extractor


def tell(extractor: UnitExtractor, config: DictConfig) -> None:
    print(f"{extractor.num_units} units, {extractor.unit_rate} a second, in {config.output_dir}")


run = Stage(convert_extractor, tell)
