"""A text's words in an aligner's letters: numbers said, accents and syllables spelled, nothing dropped unseen."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from num2words import num2words

from usdm.tokens.spoken_text import spoken_text
from usdm.tokens.spoken_text import spoken_words as bare_words

_APOSTROPHES = "'\u2018\u2019\u02bc`"
_SYLLABLES = ("HANGUL SYLLABLE ", "HIRAGANA LETTER ", "KATAKANA LETTER ")  # Unicode names them by their sound
_SAID = re.compile(r"[\d$%&]")


@dataclass(frozen=True)
class Spelling:
    """A word for an aligner."""

    ids: tuple[int, ...]  # symbols of the aligner's model; empty: nothing of the word can be aligned
    unknown: str = ""  # what the model has no symbol for


def written_words(text: str) -> list[str]:
    """The words of a text as they are written, without the punctuation around them; none of punctuation alone.

    >>> written_words("It's 6:30 PM -- (almost).")
    ["It's", '6:30', 'PM', 'almost']
    """
    bare = (_strip(token) for token in text.split())
    return [token for token in bare if token]


def _strip(token: str) -> str:
    kept = [index for index, character in enumerate(token) if not _is_punctuation(character)]
    return token[kept[0] : kept[-1] + 1] if kept else ""


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PZC" and character not in "%&"


def said(word: str, language: str) -> str:
    """A written word as it is spoken: numbers in words, in any language that num2words knows."""
    if not _SAID.search(word):
        return word
    if language == "en" and word.lstrip("€£").isascii():
        return " ".join(bare_words(spoken_text(word)))
    try:
        return re.sub(r"\d+", lambda digits: f" {num2words(int(digits[0]), lang=language)} ", word)
    except (NotImplementedError, OverflowError):  # the digits stay and are reported
        return word


def letters(word: str, knows: Callable[[str], bool], language: str) -> tuple[str, str]:
    """The letters of a word that the aligner knows, and what is left over.

    Upper and lower case stand for each other, a letter without its accent for the one with it, the sound of a Korean
    or Japanese syllable for the syllable. Punctuation within a word is not spoken.

    >>> letters("Café-4€", "abcdefghijklmnopqrstuvwxyz".__contains__, "en")
    ('cafefour', '€')
    """
    found, unknown = "", ""
    for character in unicodedata.normalize("NFC", said(word, language)):
        if spelled := _spell(character, knows):
            found += spelled
        elif not (_is_punctuation(character) or character in _APOSTROPHES):
            unknown += character
    return found, unknown


def _spell(character: str, knows: Callable[[str], bool]) -> str:
    if character in _APOSTROPHES:
        character = "'"
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    name = unicodedata.name(character, "")
    sound = name.split()[-1] if name.startswith(_SYLLABLES) else ""
    for form in (character, sound, plain):
        for cased in (form, form.lower(), form.upper()):
            if cased and all(map(knows, cased)):
                return cased
    return ""
