"""`usdm inspect`: what a speech corpus and its unit corpus hold, and what is wrong with them.

Nothing is changed. A speech corpus is read a folder at a time, its sound by several processes, a unit corpus a group
of rows at a time; kept are some hundreds of bytes an utterance, or of the sounds only those of a sample.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.data.unit_corpus import UnitCorpus
from usdm.inspection.audio import AudioCounter, AudioFigures, differs, measure_sounds
from usdm.inspection.rows import RowCounter, RowFigures
from usdm.inspection.statistics import Distribution, Extremes, Fingerprints, Repeats, distribution
from usdm.inspection.units import UnitFigures, inspect_units
from usdm.types import InputError

OUTLIERS = {  # kinds, and whether they are those with the largest values
    "longest": True,
    "shortest": False,
    "length off by most": True,
    "most clipped": True,
    "most silent": True,
    "most words per second": True,
    "fewest words per second": False,
    "lowest confidence": False,
}
TIME_TOLERANCE = 0.1  # seconds that a word may end after its utterance


@dataclass(frozen=True)
class AlignmentFigures:
    """How much of the corpus has word times."""

    utterances: int  # with word times
    share: float  # of all utterances
    covered: float  # share of all time that lies within a word
    coverage: Distribution | None  # 0..1 of an utterance with word times
    impossible: int  # utterances with a word that ends before it starts, or outside of the sound
    confidence: Distribution | None  # an utterance's mean; None where the aligner gave none


@dataclass(frozen=True)
class Outlier:
    """An utterance to listen to."""

    value: float
    id: str
    speaker: str
    split: str
    text: str
    audio: str
    start: float | None  # seconds
    channel: int | None
    duration: float  # seconds, as the corpus says


@dataclass(frozen=True)
class SpeechFigures:
    rows: RowFigures
    alignment: AlignmentFigures
    audio: AudioFigures
    shared_sounds: Repeats  # one recording that is several utterances
    leaking_sounds: Repeats  # the same in more than one split
    identical_audio: Repeats  # the same samples under several names, of those measured
    leaking_audio: Repeats  # the same in more than one split
    outliers: Mapping[str, tuple[Outlier, ...]]


@dataclass(frozen=True)
class Inspection:
    """All figures; a part that was not given is None."""

    settings: Mapping[str, object]
    speech: SpeechFigures | None
    units: UnitFigures | None


def inspect_corpora(
    corpora: Sequence[str],
    unit_corpus: str | None,
    *,
    limit: int | None = None,
    outliers: int = 5,
    processes: int = 1,
    seed: int = 0,
) -> Inspection:
    """Measure speech corpora, their unit corpus, or both.

    Args:
        corpora: speech corpus folders (see `usdm.data.speech_corpus`), or none.
        unit_corpus: folder or file of one, or None.
        limit: so many sounds are measured, drawn at random; None measures all. Manifests and units are always read
            in full.
        outliers: utterances of each kind, and examples of what is repeated.
        processes: that read and measure sound.
        seed: of the draw.

    Raises:
        InputError: nothing to inspect, a setting below its least value, or a corpus that is not there or damaged.
            Sound that cannot be read is no error: it is counted and listed.
    """
    if not corpora and unit_corpus is None:
        raise InputError("nothing to inspect: give corpora=[FOLDER] (speech corpora), unit_corpus=FOLDER, or both")
    for name, value, least in (("limit", limit, 1), ("outliers", outliers, 0), ("processes", processes, 1)):
        if value is not None and value < least:
            raise InputError(f"{name}={value}: it must be at least {least}")
    settings = {
        "corpora": list(corpora),
        "unit_corpus": unit_corpus,
        "limit": limit,
        "outliers": outliers,
        "seed": seed,
    }
    units = UnitCorpus(unit_corpus) if unit_corpus is not None else None  # what is wrong with it is told first
    counter = _SpeechCounter(limit, outliers, seed) if corpora else None
    if counter is not None:
        counter.read(corpora)
        counter.listen(processes)
    return Inspection(
        settings,
        counter.figures() if counter else None,
        inspect_units(units, outliers, counter.seconds() if counter else None) if units else None,
    )


class _SpeechCounter:
    def __init__(self, limit: int | None, outliers: int, seed: int) -> None:
        self._examples, self._seed = outliers, seed
        self._rows, self._audio, self._alignment = RowCounter(), AudioCounter(), _AlignmentCounter()
        self._sounds = Fingerprints()
        self._met: set[bytes] = set()  # hashes of sounds
        self._sample: Extremes[tuple[int, Utterance]] = Extremes(limit, largest=False)
        self._durations = array("d")
        self._outliers: dict[str, Extremes[Utterance]] = {
            kind: Extremes(outliers, largest=largest) for kind, largest in OUTLIERS.items()
        }

    def read(self, corpora: Sequence[str]) -> None:
        """The manifests, all of them."""
        for utterance in tqdm(_utterances(corpora), unit="utterance", desc="inspect manifests"):
            self._add(utterance)

    def _add(self, utterance: Utterance) -> None:
        if not math.isfinite(utterance.duration):
            raise InputError(f"{utterance.id}: duration {utterance.duration} is no length; correct the manifest")
        row = len(self._rows.rows)
        rate = self._rows.add(
            utterance.id,
            speaker=utterance.speaker,
            role=utterance.role,
            dialog=utterance.dialog,
            split=utterance.split,
            text=utterance.text or "",
            seconds=utterance.duration,
            words=None if utterance.text else len(utterance.words),
        )
        self._durations.append(utterance.duration)
        confidence = self._alignment.add(utterance)
        slim = replace(utterance, words=(), phones=(), pronunciation=(), word_confidence=())
        self._outliers["longest"].add(utterance.duration, slim)
        self._outliers["shortest"].add(utterance.duration, slim)
        if rate is not None:
            self._outliers["most words per second"].add(rate, slim)
            self._outliers["fewest words per second"].add(rate, slim)
        if confidence is not None:
            self._outliers["lowest confidence"].add(confidence, slim)
        name = "\n".join(map(str, utterance.sound))
        self._sounds.add(name, row)
        digest = _digest(name)
        if digest not in self._met:
            self._met.add(digest)
            self._sample.add(int.from_bytes(_digest(f"{self._seed}\n{name}"), "big"), (row, slim))

    def listen(self, processes: int) -> None:
        """The sounds, or a sample of them."""
        sample = sorted((item for _, item in self._sample.ranked()), key=lambda item: item[0])  # as they lie on disk
        measured = measure_sounds([utterance for _, utterance in sample], processes)
        bar = tqdm(measured, total=len(sample), unit="sound", desc="inspect audio")
        for (row, _), (utterance, measures) in zip(sample, bar, strict=True):
            if isinstance(measures, str):
                self._audio.add_unreadable(utterance, measures)
                continue
            self._audio.add(row, utterance, measures)
            self._outliers["most silent"].add(measures.silence, utterance)
            if measures.clipped:
                self._outliers["most clipped"].add(measures.clipped / measures.seconds, utterance)
            if differs(measures.seconds, utterance.duration):
                self._outliers["length off by most"].add(abs(measures.seconds - utterance.duration), utterance)

    def seconds(self) -> dict[str, float]:
        """Lengths by id."""
        return dict(zip(self._rows.rows.ids, self._durations, strict=True))

    def figures(self) -> SpeechFigures:
        names, examples = self._rows.rows, self._examples
        return SpeechFigures(
            rows=self._rows.figures(examples),
            alignment=self._alignment.figures(),
            audio=self._audio.figures(len(self._met)),
            shared_sounds=self._sounds.repeats(names, examples),
            leaking_sounds=self._sounds.repeats(names, examples, across_splits=True),
            identical_audio=self._audio.fingerprints.repeats(names, examples),
            leaking_audio=self._audio.fingerprints.repeats(names, examples, across_splits=True),
            outliers={
                kind: tuple(_outlier(value, utterance) for value, utterance in extremes.ranked())
                for kind, extremes in self._outliers.items()
            },
        )


class _AlignmentCounter:
    def __init__(self) -> None:
        self._utterances = self._aligned = self._impossible = 0
        self._total = self._covered = 0.0
        self._coverage, self._confidence = array("f"), array("f")

    def add(self, utterance: Utterance) -> float | None:
        """-> the utterance's mean confidence."""
        self._utterances += 1
        self._total += max(0.0, utterance.duration)
        if not utterance.words:
            return None
        self._aligned += 1
        last = utterance.duration + TIME_TOLERANCE
        self._impossible += any(not 0 <= word.start <= word.end <= last for word in utterance.words)
        covered = sum(max(0.0, min(word.end, utterance.duration) - word.start) for word in utterance.words)
        self._covered += covered
        if utterance.duration > 0:
            self._coverage.append(covered / utterance.duration)
        if not utterance.word_confidence:
            return None
        confidence = sum(utterance.word_confidence) / len(utterance.word_confidence)
        self._confidence.append(confidence)
        return confidence

    def figures(self) -> AlignmentFigures:
        return AlignmentFigures(
            utterances=self._aligned,
            share=self._aligned / max(1, self._utterances),
            covered=self._covered / (self._total or 1.0),
            coverage=distribution(self._coverage),
            impossible=self._impossible,
            confidence=distribution(self._confidence),
        )


def _utterances(corpora: Sequence[str]) -> Iterator[Utterance]:
    """Each folder must have some."""
    for folder in corpora:
        yield from read_speech_corpora([folder])


def _outlier(value: float, utterance: Utterance) -> Outlier:
    return Outlier(
        value=value,
        id=utterance.id,
        speaker=utterance.speaker,
        split=utterance.split,
        text=utterance.text or "",
        audio=str(Path(utterance.audio)),
        start=utterance.start,
        channel=utterance.channel,
        duration=utterance.duration,
    )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
