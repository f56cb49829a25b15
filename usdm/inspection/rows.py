"""What a speech corpus and a unit corpus both say of their utterances: lengths, text, speakers, splits, repeats."""

from __future__ import annotations

import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from usdm.inspection.statistics import Distribution, Fingerprints, Repeats, Rows, distribution
from usdm.interleave import spoken_form

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class TextFigures:
    """Words are those of `usdm.interleave.spoken_form`."""

    words: int
    distinct_words: int
    without_text: int  # utterances
    with_digits: int  # utterances whose numbers are not spelled out
    other_characters: Mapping[str, int]  # neither letter, digit, apostrophe nor space; the most frequent first


@dataclass(frozen=True)
class SpeakerFigures:
    count: int
    across_splits: int  # heard in more than one split
    largest_share: float  # of all hours, the most heard speaker's
    effective: float  # so many speakers, equally heard, would be as varied: 2 to the entropy of the shares
    hours: Mapping[str, float]  # the most heard first


@dataclass(frozen=True)
class GroupFigures:
    """A split, or a role."""

    utterances: int
    hours: float
    speakers: int


@dataclass(frozen=True)
class RowFigures:
    """None stands for a quantity that no utterance has."""

    utterances: int
    hours: float
    without_length: int  # utterances whose duration is not above zero
    duration: Distribution | None  # seconds
    words_per_second: Distribution | None
    text: TextFigures
    speakers: SpeakerFigures
    splits: Mapping[str, GroupFigures]
    roles: Mapping[str, GroupFigures]
    repeated_ids: Repeats
    repeated_texts: Repeats  # of one speaker
    leaking_dialogs: Repeats  # with utterances in more than one split


class RowCounter:
    """Takes utterances one at a time and keeps some tens of bytes of each, beside its id."""

    def __init__(self) -> None:
        self.rows = Rows()
        self._seconds, self._rates = array("f"), array("f")
        self._total = 0.0
        self._without_length = 0
        self._heard: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
        self._names, self._texts, self._dialogs = Fingerprints(), Fingerprints(), Fingerprints()
        self._text = _TextCounter()

    def add(
        self,
        name: str,
        *,
        speaker: str,
        role: str,
        dialog: str,
        split: str,
        text: str,
        seconds: float,
        words: int | None = None,
    ) -> float | None:
        """Counts one more; `words` None counts those of the text. -> words per second, None where not known."""
        row = self.rows.add(name, split)
        self._names.add(name, row)
        if dialog:
            self._dialogs.add(dialog, row)
        spoken = self._text.add(text)
        if spoken:
            self._texts.add(f"{speaker}\n{spoken}", row)
        heard = self._heard[speaker, split, role]
        heard[0] += 1
        if not seconds > 0:  # not a number fails it too
            self._without_length += 1
            return None
        heard[1] += seconds
        self._total += seconds
        self._seconds.append(seconds)
        number = len(spoken.split()) if words is None else words
        if not number:
            return None
        self._rates.append(number / seconds)
        return number / seconds

    def figures(self, examples: int) -> RowFigures:
        return RowFigures(
            utterances=len(self.rows),
            hours=self._total / SECONDS_PER_HOUR,
            without_length=self._without_length,
            duration=distribution(self._seconds),
            words_per_second=distribution(self._rates),
            text=self._text.figures(),
            speakers=self._speakers(),
            splits=self._groups(1),
            roles=self._groups(2),
            repeated_ids=self._names.repeats(self.rows, examples),
            repeated_texts=self._texts.repeats(self.rows, examples),
            leaking_dialogs=self._dialogs.repeats(self.rows, examples, across_splits=True),
        )

    def _speakers(self) -> SpeakerFigures:
        seconds: dict[str, float] = defaultdict(float)
        splits: dict[str, set[str]] = defaultdict(set)
        for (speaker, split, _), (_, heard) in self._heard.items():
            seconds[speaker] += heard
            splits[speaker].add(split)
        shares = np.asarray([value for value in seconds.values() if value > 0]) / (self._total or 1.0)
        return SpeakerFigures(
            count=len(seconds),
            across_splits=sum(len(found) > 1 for found in splits.values()),
            largest_share=float(shares.max(initial=0.0)),
            effective=float(2 ** -(shares * np.log2(shares)).sum()) if len(shares) else 0.0,
            hours={name: seconds[name] / SECONDS_PER_HOUR for name in sorted(seconds, key=seconds.__getitem__)[::-1]},
        )

    def _groups(self, place: int) -> dict[str, GroupFigures]:
        names = sorted({key[place] for key in self._heard})
        return {name: _group(item for item in self._heard.items() if item[0][place] == name) for name in names}


def _group(heard: Iterable[tuple[tuple[str, str, str], list[float]]]) -> GroupFigures:
    speakers, utterances, seconds = set(), 0, 0.0
    for (speaker, *_), (number, length) in heard:
        speakers.add(speaker)
        utterances += int(number)
        seconds += length
    return GroupFigures(utterances, seconds / SECONDS_PER_HOUR, len(speakers))


class _TextCounter:
    def __init__(self) -> None:
        self._number = self._without_text = self._with_digits = 0
        self._distinct: set[str] = set()
        self._other: Counter[str] = Counter()

    def add(self, text: str) -> str:
        """-> its spoken form."""
        spoken = spoken_form(text)
        words = spoken.split()
        self._number += len(words)
        self._distinct.update(words)
        self._without_text += not words
        self._with_digits += any(map(str.isdigit, spoken))
        self._other.update(filter(_is_other, text))
        return spoken

    def figures(self) -> TextFigures:
        other = dict(self._other.most_common())
        return TextFigures(self._number, len(self._distinct), self._without_text, self._with_digits, other)


@cache
def _is_other(character: str) -> bool:
    kind = unicodedata.category(character)[0]
    return not (kind in "LMN" or character == "'" or character.isspace())
