"""PocketSphinx's phones (ARPAbet in capitals, one vowel AH) in flite's names, and flite's words for its dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache

from data_prep.alignment.phone_head import PAUSE
from data_prep.embedded_model.flite import Flite


class FlitePronunciation:
    """How flite says a word by itself, whatever the word.

    Raises:
        InputError: flite is not installed.
    """

    def __init__(self) -> None:
        self._flite = Flite("kal16")
        self._flite.speak("a")  # the library is loaded when first used: let it be missing before any work is done
        self._say = cache(self._speak)

    def __call__(self, word: str) -> tuple[str, ...]:
        """Flite's names of a word's phones, without pauses. Raises InputError if there is nothing to say."""
        return self._say(word)

    def _speak(self, word: str) -> tuple[str, ...]:
        return tuple(phone.text for phone in self._flite.speak(word).phones if phone.text != PAUSE)


def arpabet(phones: Sequence[str]) -> list[str]:
    """Flite's names in those of PocketSphinx's dictionary.

    >>> arpabet(["ax", "b", "ah", "v"])
    ['AH', 'B', 'AH', 'V']
    """
    return ["AH" if phone == "ax" else phone.upper() for phone in phones]


def flite_names(found: Sequence[str], said: Sequence[str]) -> list[str]:
    """PocketSphinx's phones of a word in flite's names.

    The dictionary's AH is flite's `ah` or, unstressed, its `ax`: flite's vowel in that place decides. Where flite says
    another vowel there or none ("a", alone, is `ey`), the unstressed one stands.

    Args:
        found: phones of the word, PocketSphinx's names.
        said: phones as flite says the word, its own names.

    >>> flite_names(["B", "AH", "K", "AH", "M"], ["b", "ih", "k", "ah", "m"])
    ['b', 'ax', 'k', 'ah', 'm']
    """
    names = ["ax" if phone == "AH" else phone.lower() for phone in found]
    for start, other, size in SequenceMatcher(None, found, arpabet(said), autojunk=False).get_matching_blocks():
        names[start : start + size] = said[other : other + size]
    return names
