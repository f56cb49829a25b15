"""Speech to discrete units: an SSL encoder layer and the nearest k-means centroid, or the codes of a neural codec."""

from usdm.units.extractor import UnitExtractor
from usdm.units.loading import load_unit_tokenizer
from usdm.units.settings import UnitSettings
from usdm.units.tokenizer import UnitTokenizer

__all__ = ["UnitExtractor", "UnitSettings", "UnitTokenizer", "load_unit_tokenizer"]
