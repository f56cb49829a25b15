"""Praat TextGrids, as the Montreal Forced Aligner writes them: words and phones with their times.

Both formats hold the same values in the same order; the long one names each. Praat itself reads them so: only
free-standing numbers, strings and flags count (Praat manual, "TextGrid file formats").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.alignment.aligned import Aligned, Unaligned
from usdm.data.speech_corpus import Utterance
from usdm.types import AlignedWord, InputError

_VALUE = re.compile(r'"(?:[^"]|"")*"|<exists>|<absent>|(?<![^\s])[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?(?![^\s])')
_SILENT_WORDS = ("", "<eps>", "sil", "sp")
_UNKNOWN_WORDS = ("<unk>", "spn")  # what MFA had no pronunciation for


@dataclass(frozen=True)
class Tier:
    """Labelled intervals."""

    name: str
    intervals: tuple[AlignedWord, ...]


class TextGridAligner:
    """Takes word and phone times from `<id>.TextGrid` or `<name of the sound file>.TextGrid` at any depth of a folder.

    Of a recording with several speakers the tiers `<speaker> - words` and `<speaker> - phones` are read. Times count
    from the start of the utterance; those of a long recording are cut to it.

    Raises:
        InputError: there is no such folder, or no TextGrid in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.files = {path.stem: path for path in sorted(Path(folder).rglob("*.TextGrid"))}
        if not self.files:
            raise InputError(f"{folder}: no .TextGrid in it; give the folder that the aligner wrote.")

    def __call__(self, utterances: Sequence[Utterance]) -> list[Aligned | Unaligned]:
        return [self._align(utterance) for utterance in utterances]

    def _align(self, utterance: Utterance) -> Aligned | Unaligned:
        path = self.files.get(utterance.id) or self.files.get(utterance.audio.stem)
        if path is None:
            return Unaligned(f"no {utterance.id}.TextGrid")
        try:
            tiers = {tier.name: tier for tier in read_textgrid(path)}
            words = _tier(tiers, "words", utterance.speaker, path)
            phones = _tier(tiers, "phones", utterance.speaker, path)
        except InputError as error:
            return Unaligned(str(error))
        start = 0.0 if utterance.start is None or path.stem == utterance.id else utterance.start
        found = tuple(_within(words.intervals, start, utterance.duration)) if words else ()
        if not found:
            return Unaligned(f"{path}: no word in it")
        unknown = tuple(word.text for word in found if word.text in _UNKNOWN_WORDS)
        known_phones = tuple(_within(phones.intervals, start, utterance.duration)) if phones else ()
        return Aligned(found, (), known_phones, unknown)


def _tier(tiers: dict[str, Tier], kind: str, speaker: str, path: Path) -> Tier | None:
    tier = tiers.get(f"{speaker} - {kind}") or tiers.get(kind)
    if tier is None and kind == "words":
        raise InputError(f"{path}: no tier {kind!r} among {', '.join(tiers)}")
    return tier


def _within(intervals: Sequence[AlignedWord], start: float, duration: float) -> Iterator[AlignedWord]:
    """What is spoken between `start` and `start + duration`, in seconds from `start`."""
    for interval in intervals:
        if interval.text in _SILENT_WORDS or not start <= (interval.start + interval.end) / 2 < start + duration:
            continue
        yield AlignedWord(interval.text, max(0.0, interval.start - start), min(duration, interval.end - start))


def read_textgrid(path: str | Path) -> list[Tier]:
    """The interval tiers of a TextGrid, long or short, UTF-8 or UTF-16.

    Raises:
        InputError: the file is no such TextGrid.
    """
    path = Path(path)
    try:
        return list(_tiers(iter(_values(path))))
    except (StopIteration, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path}: no TextGrid that can be read ({error!r})") from error


def _values(path: Path) -> list[str]:
    data = path.read_bytes()
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    values = _VALUE.findall(text)
    if values[:2] != ['"ooTextFile"', '"TextGrid"']:
        raise ValueError("it does not begin as one")
    return values[2:]


def _tiers(values: Iterator[str]) -> Iterator[Tier]:
    next(values), next(values)  # start and end of the whole
    if next(values) != "<exists>":
        return
    for _ in range(int(next(values))):
        kind, name = _string(next(values)), _string(next(values))
        next(values), next(values)  # start and end of the tier
        count = int(next(values))
        if kind == "IntervalTier":
            yield Tier(name, tuple(_interval(values) for _ in range(count)))
        else:  # points: a time and a mark each
            for _ in range(2 * count):
                next(values)


def _interval(values: Iterator[str]) -> AlignedWord:
    start, end = float(next(values)), float(next(values))
    return AlignedWord(_string(next(values)).strip(), start, end)


def _string(value: str) -> str:
    if not value.startswith('"'):
        raise ValueError(f"{value} where a text was expected")
    return value[1:-1].replace('""', '"')
