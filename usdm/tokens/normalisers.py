"""From what people write to what a model has learnt to read, by name: a bundle names its own."""

from __future__ import annotations

from collections.abc import Callable

from usdm.tokens.korean import HANGUL, written_in_korean
from usdm.tokens.spoken_text import written_in_english
from usdm.types import InputError

Normaliser = Callable[[str], str]  # raises InputError for what the model cannot read


def written_in_korean_or_english(text: str) -> str:
    """Each text by its own script: Korean if it has any Hangul. Raises InputError as that language does."""
    return written_in_korean(text) if HANGUL.search(text) else written_in_english(text)


NORMALISERS: dict[str, Normaliser] = {
    "spoken_english": written_in_english,  # of models that learnt texts of `spoken_text`
    "spoken_korean": written_in_korean,  # of `spoken_korean`
    "spoken_korean_or_english": written_in_korean_or_english,  # of both
}


def find_normaliser(name: str | None) -> Normaliser | None:
    """None is a model that reads texts as they are written. Raises InputError for an unknown name."""
    if name is None:
        return None
    if name not in NORMALISERS:
        raise InputError(f"normaliser={name!r}: there is {', '.join(NORMALISERS)}, or null")
    return NORMALISERS[name]
