"""From what people write to what a model has learnt to read, by name: a bundle names its own."""

from __future__ import annotations

from collections.abc import Callable

from usdm.tokens.spoken_text import written_in_english
from usdm.types import InputError

Normaliser = Callable[[str], str]  # raises InputError for what the model cannot read

NORMALISERS: dict[str, Normaliser] = {
    "spoken_english": written_in_english,  # of models that learnt texts of `spoken_text`
}


def find_normaliser(name: str | None) -> Normaliser | None:
    """None is a model that reads texts as they are written. Raises InputError for an unknown name."""
    if name is None:
        return None
    if name not in NORMALISERS:
        raise InputError(f"normaliser={name!r}: there is {', '.join(NORMALISERS)}, or null")
    return NORMALISERS[name]
