"""Speech to discrete units: an SSL encoder layer and the nearest k-means centroid."""

from usdm.units.extractor import UnitExtractor, UnitSettings

__all__ = ["UnitExtractor", "UnitSettings"]
