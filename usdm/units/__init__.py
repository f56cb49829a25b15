"""Speech to discrete units: an SSL encoder layer and the nearest k-means centroid, or the codes of a neural codec."""

from usdm.units.extractor import UnitExtractor, UnitSettings
from usdm.units.tokenizer import UnitTokenizer, load_unit_tokenizer

__all__ = ["UnitExtractor", "UnitSettings", "UnitTokenizer", "load_unit_tokenizer"]
