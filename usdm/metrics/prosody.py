"""How something is said: fundamental frequency (pYIN, package librosa), level, speaking rate, pauses.

Fundamental frequency is in semitones above 100 Hz, so that differences between voices are those that are heard. Speech
is where a frame's level is within 30 dB of the loud frames' (their 95th percentile); a pause is 0.2 s or more without
it between speech.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from usdm.audio import read_audio, resample
from usdm.metrics.figures import Prediction, Reference, Value
from usdm.metrics.pitch import HOP, SAMPLE_RATE, pitch, pitch_distance
from usdm.metrics.text import scored_words
from usdm.types import InputError, Waveform

REFERENCE_HZ = 100.0
RANGE = (5, 95)  # percentiles, so that one wrong frame is no range
SPEECH_DB = 30.0  # below the loud frames
LOUD = 95  # percentile
SHORTEST_PAUSE = 0.2  # seconds
SAME_TIMES = 0.1  # seconds; contours of recordings that differ more in length are not compared frame by frame
FEWEST_VOICED = 10  # frames of 10 ms, for figures of F0
SILENCE_DB = -100.0
FRAMES_A_SECOND = SAMPLE_RATE / HOP

Frames = NDArray[np.float64]


@dataclass(frozen=True)
class Contours:
    """Of one recording, in frames of 10 ms."""

    f0: Frames  # Hz, NaN where there is no voice
    level: Frames  # dBFS

    @property
    def seconds(self) -> float:
        return len(self.level) / FRAMES_A_SECOND


@dataclass(frozen=True)
class Prosody:
    """Of one recording. None: there is too little voice, or no words are known."""

    f0_mean: float | None  # semitones above 100 Hz, over voiced frames
    f0_range: float | None  # semitones between the 5th and the 95th percentile
    level: float  # dBFS, mean over speech
    rate: float | None  # words a second, from the first speech to the last
    pauses: int
    pause_share: float  # of the time from the first speech to the last


@dataclass(frozen=True)
class ContourDistance:
    """Of two recordings of the same words at the same times."""

    f0_correlation: float | None  # Pearson's, of semitones where both are voiced
    f0_rmse: float | None  # semitones there
    voicing: float  # share of frames in which one is voiced and the other not
    level_correlation: float | None  # Pearson's, of dB where both speak


def contours(waveform: Waveform) -> Contours:
    """Raises InputError where librosa is not installed."""
    f0 = pitch(waveform)
    samples = resample(waveform.samples.detach().float().cpu(), waveform.sample_rate, SAMPLE_RATE).double().numpy()
    samples = np.pad(samples, (0, max(len(f0) * HOP - len(samples), 0)))[: len(f0) * HOP]
    power = np.square(samples).reshape(len(f0), HOP).mean(axis=1)
    return Contours(f0, np.maximum(10 * np.log10(np.maximum(power, 1e-12)), SILENCE_DB))


def speech_frames(level: Frames) -> NDArray[np.bool_]:
    return level > np.percentile(level, LOUD) - SPEECH_DB if len(level) else np.zeros(0, bool)


def prosody(found: Contours, words: int | None = None) -> Prosody:
    """`words`: that are spoken; None: not known."""
    semitones = _semitones(found.f0)
    speaks = speech_frames(found.level)
    places = np.flatnonzero(speaks)
    inside = speaks[places[0] : places[-1] + 1] if len(places) else speaks[:0]
    pauses = [
        length
        for is_speech, run in groupby(inside)
        if not is_speech and (length := sum(1 for _ in run)) >= SHORTEST_PAUSE * FRAMES_A_SECOND
    ]
    seconds = len(inside) / FRAMES_A_SECOND
    enough = len(semitones) >= FEWEST_VOICED
    return Prosody(
        f0_mean=float(semitones.mean()) if enough else None,
        f0_range=float(np.subtract(*np.percentile(semitones, RANGE[::-1]))) if enough else None,
        level=float(found.level[speaks].mean()) if speaks.any() else SILENCE_DB,
        rate=words / seconds if words and seconds else None,
        pauses=len(pauses),
        pause_share=sum(pauses) / len(inside) if len(inside) else 0.0,
    )


def contour_distance(ours: Contours, theirs: Contours) -> ContourDistance:
    """Frame by frame; those beyond the shorter one's end are left out."""
    length = min(len(ours.f0), len(theirs.f0))
    mine, its = ours.f0[:length], theirs.f0[:length]
    both = ~np.isnan(mine) & ~np.isnan(its)
    speak = speech_frames(ours.level[:length]) & speech_frames(theirs.level[:length])
    apart = pitch_distance(ours.f0, theirs.f0)
    return ContourDistance(
        f0_correlation=_correlation(_semitones(mine[both]), _semitones(its[both])),
        f0_rmse=apart.semitones if both.sum() >= FEWEST_VOICED else None,
        voicing=apart.voicing,
        level_correlation=_correlation(ours.level[:length][speak], theirs.level[:length][speak]),
    )


def _semitones(f0: Frames) -> Frames:
    semitones: Frames = 12 * np.log2(f0[~np.isnan(f0)] / REFERENCE_HZ)
    return semitones


def _correlation(ours: Frames, theirs: Frames) -> float | None:
    if len(ours) < FEWEST_VOICED or ours.std() == 0 or theirs.std() == 0:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])


class ProsodyDistances:
    """How far the prosody of the reply is from that of the reference reply's recording; less is better.

    Gives `f0_mean_off` and `f0_range_off` (semitones), `level_off` (dB), `rate_off` (a share of the reference's words a
    second), `pauses_off` (their number), all as absolute differences; and, where both recordings last equally long, as
    those of `usdm predict given=units` do (resynthesis against the recording), `f0_rmse` (semitones) and `voicing_off`.
    """

    lower_is_better = True

    def __init__(self) -> None:
        self.about = _about()

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        sides = _sides(prediction, reference)
        if sides is None:
            return {}
        (ours, mine), (theirs, its) = sides
        values: dict[str, Value] = {
            "f0_mean_off": _off(mine.f0_mean, its.f0_mean),
            "f0_range_off": _off(mine.f0_range, its.f0_range),
            "level_off": _off(mine.level, its.level),
            "pauses_off": float(abs(mine.pauses - its.pauses)),
        }
        if its.rate is not None:
            values["rate_off"] = None if mine.rate is None else abs(mine.rate / its.rate - 1)
        if _at_the_same_times(ours, theirs):
            apart = contour_distance(ours, theirs)
            values |= {"f0_rmse": apart.f0_rmse, "voicing_off": apart.voicing}
        return values


class ContourCorrelations:
    """How alike the contours of reply and reference recording run, where both last equally long; more is better.

    Gives `f0_correlation` and `level_correlation` (Pearson's).
    """

    lower_is_better = False

    def __init__(self) -> None:
        self.about = _about()

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        sides = _sides(prediction, reference)
        if sides is None or not _at_the_same_times(sides[0][0], sides[1][0]):
            return {}
        apart = contour_distance(sides[0][0], sides[1][0])
        return {"f0_correlation": apart.f0_correlation, "level_correlation": apart.level_correlation}


def _about() -> str:
    try:
        return f"pYIN, librosa {version('librosa')}; semitones above 100 Hz"
    except PackageNotFoundError as error:
        raise InputError(f"prosody needs the package {error}: pip install 'usdm[evaluate]'") from error


def _sides(
    prediction: Prediction, reference: Reference
) -> tuple[tuple[Contours, Prosody], tuple[Contours, Prosody]] | None:
    """Contours and prosody of the reply and of the reference; None where one of the two has no sound."""
    if prediction.audio is None or reference.agent_audio is None or not reference.agent_audio.is_file():
        return None
    ours, theirs = _of_file(prediction.audio), _of_file(reference.agent_audio)
    text = reference.agent_text if prediction.agent_text is None else prediction.agent_text  # units alone: its words
    return (ours, prosody(ours, len(scored_words(text)))), (
        theirs,
        prosody(theirs, len(scored_words(reference.agent_text))),
    )


def _of_file(path: Path) -> Contours:
    return _contours_of(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _contours_of(path: Path, changed: int) -> Contours:
    """Two metrics ask for the same."""
    return contours(read_audio(path))


def _at_the_same_times(ours: Contours, theirs: Contours) -> bool:
    return abs(ours.seconds - theirs.seconds) <= SAME_TIMES


def _off(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else abs(ours - theirs)


def vector(found: Prosody) -> list[float]:
    """F0 mean and range, level, rate and share of pauses; NaN where one is not known."""
    values: Sequence[float | None] = (found.f0_mean, found.f0_range, found.level, found.rate, found.pause_share)
    return [float("nan") if value is None else value for value in values]
