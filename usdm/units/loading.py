"""Which unit tokenizer a folder holds."""

from __future__ import annotations

from pathlib import Path

from usdm.checkpoint import CLASS_KEY, class_named
from usdm.units.extractor import UnitExtractor
from usdm.units.tokenizer import SETTINGS_FILE, UnitTokenizer, read_settings


def tokenizer_class(folder: str | Path) -> type[UnitTokenizer]:
    """The kind of tokenizer that a folder holds: one that `units.json` names, or an SSL encoder with k-means.

    Raises InputError for a class that cannot be imported, or that is no unit tokenizer.
    """
    name = read_settings(folder).get(CLASS_KEY)
    if name is None:
        return UnitExtractor
    kind: type[UnitTokenizer] = class_named(name, UnitTokenizer, Path(folder) / SETTINGS_FILE)
    return kind


def load_unit_tokenizer(folder: str | Path) -> UnitTokenizer:
    """The tokenizer in a folder, of whichever kind. Raises InputError if it cannot be read."""
    return tokenizer_class(folder).from_pretrained(folder)
