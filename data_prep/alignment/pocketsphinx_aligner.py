"""An aligner without any download: PocketSphinx forces the text on the sound; word and phone times, English."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from data_prep.alignment.aligned import Aligned, Unaligned
from data_prep.alignment.phone_head import PAUSE
from data_prep.alignment.pocketsphinx_decoder import SAMPLE_RATE, SILENCE, ForcedSearch, PhoneListener
from data_prep.alignment.pocketsphinx_phones import FlitePronunciation, arpabet, flite_names
from data_prep.alignment.spelling import letters, said, written_words
from usdm.audio import check_speech
from usdm.data.speech_corpus import Utterance
from usdm.types import AlignedWord, InputError, Waveform

_LETTERS = "abcdefghijklmnopqrstuvwxyz'"
_JOINTS = re.compile(r"[\s\-\u2010-\u2015/._]+")  # "well-known" and "p.m" are two spoken words each

Span = tuple[float, float]  # seconds


class PocketSphinxAligner:
    """An `Aligner` with PocketSphinx's English model (package pocketsphinx); phones in flite's names, with pauses.

    A word that PocketSphinx's dictionary does not have is pronounced as flite says it. The phones become the
    utterance's pronunciation too: of several in the dictionary the one that is heard.

    Args:
        transcribe: an utterance without text gets the phones of the words that PocketSphinx hears in it. The words
            themselves are not kept: what a recogniser hears is no transcript.

    Raises:
        InputError: pocketsphinx or flite is not installed.
    """

    def __init__(self, *, transcribe: bool) -> None:
        self._search = ForcedSearch()
        self._listen = PhoneListener() if transcribe else None
        self._pronounce = FlitePronunciation()

    def __call__(self, utterances: Sequence[Utterance]) -> list[Aligned | Unaligned]:
        return [self._align(utterance) for utterance in utterances]

    def _align(self, utterance: Utterance) -> Aligned | Unaligned:
        try:
            sound = utterance.read(SAMPLE_RATE)
            check_speech(sound)
            return self._align_text(sound, utterance.text) if utterance.text else self._align_heard(sound)
        except InputError as error:
            return Unaligned(str(error))

    def _align_text(self, sound: Waveform, text: str) -> Aligned:
        written = written_words(text)
        spoken, unknown = zip(*map(_spoken, written), strict=True) if written else ((), ())
        words, phones = self._find(sound, [word for row in spoken for word in row])
        rest = iter(words)
        spans = [_span([next(rest) for _ in row]) for row in spoken]
        times = zip(written, _share_gaps(spans, sound.seconds), strict=True)
        return Aligned(
            words=tuple(AlignedWord(word, start, end) for word, (start, end) in times),
            confidence=(),
            phones=phones,
            unknown=tuple(each for each in unknown if each),
            interpolated=tuple(word for word, span in zip(written, spans, strict=True) if span is None),
            pronunciation=_without_pauses(phones),
        )

    def _align_heard(self, sound: Waveform) -> Aligned:
        words = self._listen(sound) if self._listen else []
        if not words:
            raise InputError("PocketSphinx hears no word in the sound")
        _, phones = self._find(sound, words)
        return Aligned(words=(), confidence=(), phones=phones, pronunciation=_without_pauses(phones))

    def _find(self, sound: Waveform, spoken: Sequence[str]) -> tuple[list[AlignedWord], tuple[AlignedWord, ...]]:
        """Times of all spoken words and, pauses among them, of all phones. Raises InputError if they are not there."""
        if not spoken:
            raise InputError("no word of the text can be spelled in English letters")
        for word in spoken:
            if not self._search.knows(word):
                self._search.add(word, arpabet(self._pronounce(word)))
        rest = iter(spoken)
        words: list[AlignedWord] = []
        phones: list[AlignedWord] = []
        for found in self._search(sound, spoken):
            if found.is_filler:  # noise has no name among flite's phones: its time stays without
                phones += [replace(phone, text=PAUSE) for phone in found.phones if phone.text == SILENCE]
            else:
                words.append(AlignedWord(next(rest), found.phones[0].start, found.phones[-1].end))
                names = flite_names([phone.text for phone in found.phones], self._pronounce(words[-1].text))
                phones += [replace(phone, text=name) for phone, name in zip(found.phones, names, strict=True)]
        return words, _joined_pauses(phones)


def _spoken(word: str) -> tuple[tuple[str, ...], str]:
    """The words that a written one is spoken as, in the dictionary's letters, and what these cannot spell."""
    parts = [letters(part, _LETTERS.__contains__, "en") for part in _JOINTS.split(said(word, "en"))]
    bare = (known.strip("'") for known, _ in parts)
    return tuple(each for each in bare if each), "".join(unknown for _, unknown in parts)


def _span(words: Sequence[AlignedWord]) -> Span | None:
    return (words[0].start, words[-1].end) if words else None


def _share_gaps(spans: Sequence[Span | None], seconds: float) -> list[Span]:
    """Spans that are not known share the time between their neighbours evenly."""
    filled: list[Span] = []
    for index, span in enumerate(spans):
        if span is None:
            start = filled[-1][1] if filled else 0.0
            waiting, end = next(
                ((count, known[0]) for count, known in enumerate(spans[index:]) if known),
                (len(spans) - index, seconds),
            )
            span = (start, start + (end - start) / waiting)
        filled.append(span)
    return filled


def _joined_pauses(phones: Sequence[AlignedWord]) -> tuple[AlignedWord, ...]:
    """Silence of several words in a row as one pause."""
    joined: list[AlignedWord] = []
    for phone in phones:
        if joined and phone.text == joined[-1].text == PAUSE and phone.start == joined[-1].end:
            joined[-1] = replace(joined[-1], end=phone.end)
        else:
            joined.append(phone)
    return tuple(joined)


def _without_pauses(phones: Sequence[AlignedWord]) -> tuple[str, ...]:
    return tuple(phone.text for phone in phones if phone.text != PAUSE)
