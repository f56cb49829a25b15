"""Words and the units in which they are spoken: every unit belongs to exactly one word (USDM, section 3.2)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from usdm.types import AlignedWord, InputError

_APOSTROPHES = "'\u2018\u2019\u02bc`"


@dataclass(frozen=True)
class SpokenWords:
    """Words in order; word i is spoken in units `ends[i - 1]` to `ends[i]` (the first from 0 on).

    A word too short for a unit of its own stands with its neighbour, the two joined by a space.
    """

    words: tuple[str, ...]  # W of them
    ends: NDArray[np.int32]  # (W,), in units; strictly increasing, the last is the number of units


def spoken_form(text: str) -> str:
    """Text as pretraining sequences hold it: lower case, no punctuation but the apostrophe, single spaces."""
    return " ".join("".join(map(_spoken_character, text.lower())).split())


@cache
def _spoken_character(character: str) -> str:
    """Letters, marks and digits of any script stay."""
    if character in _APOSTROPHES:
        return "'"
    return character if unicodedata.category(character)[0] in "LMN" else " "


def spoken_words(words: Sequence[AlignedWord], num_units: int, unit_rate: float) -> SpokenWords:
    """Turn word times in seconds into unit spans that partition the `num_units` units at `unit_rate` Hz.

    Leading silence goes to the first word, trailing silence to the last, inner silence half to each neighbour.
    Words without a letter or digit are dropped, their time counts as silence.

    Raises:
        InputError: no units, no words, words that are not in the order of their times, or one that ends before it
            starts.
    """
    spoken = [AlignedWord(form, word.start, word.end) for word in words if (form := spoken_form(word.text))]
    _check(spoken, num_units)
    middles = [(left.end + right.start) / 2 for left, right in zip(spoken, spoken[1:], strict=False)]
    rounded = np.clip(np.rint(np.asarray(middles) * unit_rate), 0, num_units)
    ends = [*np.maximum.accumulate(rounded).astype(int).tolist(), num_units]
    return _merge_short([word.text for word in spoken], ends)


def _check(words: list[AlignedWord], num_units: int) -> None:
    if num_units < 1:
        raise InputError(f"num_units={num_units}: words need at least one unit; leave empty utterances out")
    if not words:
        raise InputError("no words: an utterance without transcript cannot be aligned; leave it out")
    for word in words:
        if not word.start <= word.end:
            raise InputError(f"{word.text!r} ends at {word.end} s, before it starts at {word.start} s: align it again")
    for left, right in zip(words, words[1:], strict=False):
        if right.start < left.start:
            raise InputError(
                f"{right.text!r} starts at {right.start} s, before {left.text!r} at {left.start} s: words must be "
                "in the order in which they are spoken; sort them"
            )


def _merge_short(words: list[str], ends: list[int]) -> SpokenWords:
    """A word without a unit joins the word before it; at the very beginning, the one after it."""
    merged: list[str] = []
    merged_ends: list[int] = []
    waiting: list[str] = []  # words before the first unit
    for word, end in zip(words, ends, strict=True):
        if end > (merged_ends[-1] if merged_ends else 0):
            merged.append(" ".join([*waiting, word]))
            merged_ends.append(end)
            waiting = []
        elif merged:
            merged[-1] += " " + word
        else:
            waiting.append(word)
    return SpokenWords(tuple(merged), np.asarray(merged_ends, dtype=np.int32))
