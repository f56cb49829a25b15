"""Telephone calls with a side on each channel: phrases into turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from data_prep.corpora.item import Item

ROLES = ("user", "agent")  # of channels 0 and 1


def turns(phrases: Iterable[Item], max_turn_seconds: float) -> Iterator[Item]:
    """Phrases of calls, in any order -> turns in the order of their starts.

    Consecutive phrases of a side are one turn, which is heard with the pauses between them, as long as it lasts at
    most `max_turn_seconds`; 0 keeps the phrases. What is no speech passes unchanged.
    """
    spoken = []
    for phrase in phrases:
        if phrase.speechless:
            yield phrase
        else:
            spoken.append(phrase)
    for _, call in groupby(sorted(spoken, key=lambda phrase: (phrase.dialog, phrase.start)), attrgetter("dialog")):
        for number, turn in enumerate(_joined(call, max_turn_seconds)):
            yield replace(turn, turn=number)


def _joined(call: Iterable[Item], max_turn_seconds: float) -> Iterator[Item]:
    turn: Item | None = None
    for phrase in call:
        longer = None if turn is None else _join(turn, phrase)
        if longer is not None and (longer.duration or 0.0) <= max_turn_seconds:
            turn = longer
            continue
        if turn is not None:
            yield turn
        turn = phrase
    if turn is not None:
        yield turn


def _join(turn: Item, phrase: Item) -> Item | None:
    """Both as one, or None if they are of two sides or lack what is needed."""
    known = None not in (turn.start, turn.duration, phrase.start, phrase.duration)
    if turn.channel != phrase.channel or turn.audio is None or not known:
        return None
    end = max(turn.start + turn.duration, phrase.start + phrase.duration)  # type: ignore[operator]
    return replace(turn, text=f"{turn.text} {phrase.text}", duration=round(end - turn.start, 3))  # type: ignore[operator]
