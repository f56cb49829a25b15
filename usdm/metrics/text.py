"""Text as it is scored, and word errors.

Word error rates are those of Whisper's English normaliser, as the field reports them. What compares replies passes both
sides through `scored_words` first, so that case, punctuation and the spelling of numbers cost nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import jiwer
from num2words import num2words
from whisper_normalizer.english import EnglishTextNormalizer

_APOSTROPHES = str.maketrans("’‘`´", "''''")
_SYMBOLS = str.maketrans({"&": " and ", "%": " percent ", "+": " plus ", "@": " at "})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TIME = re.compile(r"\b(\d{1,2}):(\d{2})\b")
_PRICE = re.compile(r"\$\s?(\d+)(?:\.(\d{2}))?")
_ORDINAL = re.compile(r"\b(\d+)(?:st|nd|rd|th)\b")
_DECIMAL = re.compile(r"\b(\d+)\.(\d+)\b")
_TELEPHONE = re.compile(r"\b\d[\d-]{4,}\b")  # read digit by digit
_NUMBER = re.compile(r"\d+")
_MERIDIEM = re.compile(r"\b([ap])\.?\s?m\b\.?")  # "p.m.", "p m" and "pm" are one word
_NO_WORD = re.compile(r"[^a-z']+")
_LATIN = 0x370  # letters from here on are of other scripts
_SPELLINGS = {"okay": "ok", "mr": "mister", "mrs": "missus", "dr": "doctor"}


def scored_words(text: str) -> list[str]:
    """Lower-case words with their apostrophes, without any other punctuation, numbers spelled out in English. Words of
    other scripts stay as they are.

    >>> scored_words("At 6:30 P.M., it's $20 - OKAY?")
    ['at', 'six', 'thirty', 'pm', "it's", 'twenty', 'dollars', 'ok']
    """
    text = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES)).lower()
    text = "".join(character for character in text if not unicodedata.combining(character))
    text = _spell_numbers(_THOUSANDS.sub("", text))
    text = _MERIDIEM.sub(lambda match: f" {match[1]}m ", text)
    text = "".join(map(_word_character, unicodedata.normalize("NFC", text)))
    words = (word.strip("'") for word in text.split())
    return [_SPELLINGS.get(word, word) for word in words if word]


@cache
def _word_character(character: str) -> str:
    """Itself, or a space between words."""
    is_other_script = ord(character) >= _LATIN and character.isalpha()
    return character if "a" <= character <= "z" or character == "'" or is_other_script else " "


def _spell_numbers(text: str) -> str:
    text = _TIME.sub(_spell_time, text)
    text = _PRICE.sub(_spell_price, text)
    text = _ORDINAL.sub(lambda match: _number(int(match[1]), to="ordinal"), text)
    text = _DECIMAL.sub(lambda match: f"{_number(int(match[1]))} point {_digits(match[2])}", text)
    text = _TELEPHONE.sub(lambda match: _digits(match[0].replace("-", "")), text)
    text = _NUMBER.sub(lambda match: f" {_number(int(match[0]))} ", text)
    return text.translate(_SYMBOLS)


def _number(number: int, to: str = "cardinal") -> str:
    """ "one hundred five": the "and" that some speakers say is left out."""
    return _NO_WORD.sub(" ", num2words(number, to=to)).replace(" and ", " ")


def _digits(digits: str) -> str:
    return " ".join(_number(int(digit)) for digit in digits)


def _spell_time(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), int(match[2])
    if minute == 0:
        return f" {_number(hour)} "
    return f" {_number(hour)} {'oh ' if minute < 10 else ''}{_number(minute)} "


def _spell_price(match: re.Match[str]) -> str:
    dollars, cents = int(match[1]), int(match[2] or 0)
    said = f" {_number(dollars)} dollar{'' if dollars == 1 else 's'} "
    return f"{said}{_number(cents)} " if cents else said


@dataclass(frozen=True)
class WordErrors:
    """Counts of one alignment, or of many added up: rates of a corpus come from summed counts."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def words(self) -> int:
        """Words of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def word_errors(reference: str, hypothesis: str) -> WordErrors:
    """Fewest word edits from `reference` to `hypothesis` (package jiwer), both as `normalised` writes them."""
    counts = jiwer.process_words(normalised(reference), normalised(hypothesis))
    return WordErrors(counts.hits, counts.substitutions, counts.deletions, counts.insertions)


def normalised(text: str) -> str:
    """By Whisper's English normaliser (arXiv 2212.04356, appendix C; package whisper-normalizer).

    >>> normalised("At 6:30 P.M., it's twenty dollars - okay?")
    'at 6 30 p m it is $20 okay'
    """
    return " ".join(word for word in _normaliser()(text).split() if any(map(str.isalnum, word)))


@cache
def _normaliser() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()


@dataclass(frozen=True)
class FalseAlarms:
    """Words heard in turns where nothing is said, such as noise; they count as insertions in word error rates."""

    turns: int  # without any word
    with_words: int  # of them, in which words were heard
    words: int


def false_alarms(errors: Sequence[WordErrors]) -> FalseAlarms | None:
    """Over the turns whose reference has no words; None where there are none."""
    heard = [each.insertions for each in errors if each.words == 0]
    return FalseAlarms(len(heard), sum(words > 0 for words in heard), sum(heard)) if heard else None


def says(text: str, phrase: str) -> bool:
    """Whether the words of `phrase` stand in `text` one after the other."""
    return f" {' '.join(scored_words(phrase))} " in f" {' '.join(scored_words(text))} "


def most_frequent(texts: Sequence[str]) -> str:
    """The text that occurs most often once case and punctuation are gone; of several, the first."""
    if not texts:
        raise ValueError("no texts given; the most frequent of none does not exist")
    keys = [" ".join(scored_words(text)) for text in texts]
    counts: dict[str, int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return texts[keys.index(max(counts, key=lambda key: counts[key]))]
