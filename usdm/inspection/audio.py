"""What the sound of a corpus is like: silence, clipping, level, and whether it can be read at all."""

from __future__ import annotations

import hashlib
import multiprocessing
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from usdm.data.speech_corpus import Utterance
from usdm.inspection.rows import SECONDS_PER_HOUR
from usdm.inspection.statistics import Distribution, Fingerprints, distribution
from usdm.types import InputError, Waveform

FRAME_SECONDS = 0.02
SILENCE_BELOW_SPEECH = 35.0  # dB under the utterance's own loud frames (95th percentile)
SILENCE_LEVEL = -60.0  # dBFS; whatever is under it is silence in any recording
SHORTEST_PAUSE = 0.1  # seconds; less is the closure of a plosive
FLOOR = -120.0  # dBFS, of digital silence
FULL_SCALE = 0.999
CLIPPED_RUN = 3  # so many samples in a row at full scale: one alone is a peak
LENGTH_TOLERANCE = (0.1, 0.02)  # seconds, or this share of the length, whichever is more


@dataclass(frozen=True)
class SoundMeasures:
    """One sound; seconds where no other measure is named."""

    seconds: float
    sample_rate: int  # Hz
    level: float  # dBFS, root mean square of the whole
    peak: float  # dBFS
    clipped: float  # seconds
    leading: float  # silence before the first sound
    trailing: float  # silence after the last
    inner: float  # pauses
    digest: bytes  # of its samples: the same for the same sound in any lossless file

    @property
    def silence(self) -> float:
        """0..1 of its length."""
        return (self.leading + self.trailing + self.inner) / self.seconds


@dataclass(frozen=True)
class Unreadable:
    id: str
    audio: str
    error: str


@dataclass(frozen=True)
class AudioFigures:
    """Over the sounds that were measured; a sound that several utterances share counts once."""

    sounds: int  # in the corpus
    measured: int
    hours: float
    unreadable: tuple[Unreadable, ...]
    sample_rates: Mapping[str, int]  # Hz -> sounds
    silence: Mapping[str, float]  # share of all time: leading, trailing, inner, total
    silent: int  # sounds without anything above SILENCE_LEVEL
    silence_share: Distribution | None  # 0..1 of a sound
    leading: Distribution | None  # seconds
    trailing: Distribution | None  # seconds
    clipped_share: float  # of all samples
    clipped: int  # sounds that are clipped somewhere
    level: Distribution | None  # dBFS
    peak: Distribution | None  # dBFS
    wrong_length: int  # sounds that last otherwise than the corpus says


def differs(seconds: float, stated: float) -> bool:
    """Whether a length is not the stated one, by more than padding and rounding explain."""
    least, share = LENGTH_TOLERANCE
    return abs(seconds - stated) > max(least, share * stated)


def measure_sounds(utterances: Sequence[Utterance], processes: int) -> Iterator[tuple[Utterance, SoundMeasures | str]]:
    """Each utterance with its measures, or why its sound cannot be read; in order."""
    if processes == 1:
        yield from zip(utterances, map(_read_and_measure, utterances), strict=True)
        return
    with multiprocessing.get_context("spawn").Pool(processes, torch.set_num_threads, (1,)) as pool:
        yield from zip(utterances, pool.imap(_read_and_measure, utterances, chunksize=16), strict=True)


def _read_and_measure(utterance: Utterance) -> SoundMeasures | str:
    try:
        return measure(utterance.read())
    except InputError as error:
        return str(error)


def measure(waveform: Waveform) -> SoundMeasures:
    """Silence is told by the energy of 20 ms frames; the last one may be shorter."""
    samples, rate = waveform.samples.numpy(), waveform.sample_rate
    starts = np.arange(0, len(samples), max(1, round(FRAME_SECONDS * rate)))
    lengths = np.diff(np.append(starts, len(samples)))
    energy = np.add.reduceat(samples.astype(np.float64) ** 2, starts)
    silent = _is_silent(_decibel(np.sqrt(energy / lengths)))
    leading, trailing, inner = (part / rate for part in _silence(silent, lengths))
    clipped = _runs(np.abs(samples) >= FULL_SCALE)
    return SoundMeasures(
        seconds=waveform.seconds,
        sample_rate=rate,
        level=float(_decibel(np.sqrt(energy.sum() / len(samples)))),
        peak=float(_decibel(np.abs(samples).max())),
        clipped=sum(end - start for start, end in clipped if end - start >= CLIPPED_RUN) / rate,
        leading=leading,
        trailing=trailing,
        inner=inner,
        digest=hashlib.blake2b(samples.tobytes(), digest_size=8, key=str(rate).encode()).digest(),
    )


def _decibel(amplitude: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return 20 * np.log10(np.maximum(amplitude, 10 ** (FLOOR / 20)))


def _is_silent(levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    return levels < max(SILENCE_LEVEL, np.percentile(levels, 95) - SILENCE_BELOW_SPEECH)


def _silence(silent: NDArray[np.bool_], lengths: NDArray[np.int64]) -> tuple[int, int, int]:
    """-> samples of silence at the start, at the end and in pauses; what is all silence is so from the start."""
    leading = trailing = inner = 0
    for start, end in _runs(silent):
        samples = int(lengths[start:end].sum())
        if start == 0:
            leading = samples
        elif end == len(silent):
            trailing = samples
        elif (end - start) * FRAME_SECONDS >= SHORTEST_PAUSE:
            inner += samples
    return leading, trailing, inner


def _runs(true: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, end) of each stretch of True."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], true.astype(np.int8), [0]])))
    return [(start, end) for start, end in changes.reshape(-1, 2).tolist()]


class AudioCounter:
    """Takes measures one at a time."""

    def __init__(self) -> None:
        self.fingerprints = Fingerprints()
        self._unreadable: list[Unreadable] = []
        self._rates: Counter[int] = Counter()
        self._seconds = {"all": 0.0, "leading": 0.0, "trailing": 0.0, "inner": 0.0}
        self._clipped_samples = self._samples = 0.0
        self._silent = self._clipped = self._wrong_length = 0
        self._shares, self._leading, self._trailing = array("f"), array("f"), array("f")
        self._levels, self._peaks = array("f"), array("f")

    def add_unreadable(self, utterance: Utterance, error: str) -> None:
        self._unreadable.append(Unreadable(utterance.id, str(utterance.audio), error))

    def add(self, row: int, utterance: Utterance, measures: SoundMeasures) -> None:
        self.fingerprints.add(measures.digest, row)
        self._rates[measures.sample_rate] += 1
        for part in ("leading", "trailing", "inner"):
            self._seconds[part] += getattr(measures, part)
        self._seconds["all"] += measures.seconds
        self._samples += measures.seconds * measures.sample_rate
        self._clipped_samples += measures.clipped * measures.sample_rate
        self._silent += measures.peak < SILENCE_LEVEL
        self._clipped += measures.clipped > 0
        self._wrong_length += differs(measures.seconds, utterance.duration)
        self._shares.append(measures.silence)
        self._leading.append(measures.leading)
        self._trailing.append(measures.trailing)
        self._levels.append(measures.level)
        self._peaks.append(measures.peak)

    def figures(self, sounds: int) -> AudioFigures:
        total = self._seconds["all"]
        silence = {part: seconds / (total or 1.0) for part, seconds in self._seconds.items() if part != "all"}
        return AudioFigures(
            sounds=sounds,
            measured=len(self._levels),
            hours=total / SECONDS_PER_HOUR,
            unreadable=tuple(self._unreadable),
            sample_rates={str(rate): number for rate, number in sorted(self._rates.items())},
            silence={**silence, "total": sum(silence.values())},
            silent=self._silent,
            silence_share=distribution(self._shares),
            leading=distribution(self._leading),
            trailing=distribution(self._trailing),
            clipped_share=self._clipped_samples / (self._samples or 1.0),
            clipped=self._clipped,
            level=distribution(self._levels),
            peak=distribution(self._peaks),
            wrong_length=self._wrong_length,
        )
