"""Pauses in people's turns as a listener meets them: within a turn that goes on, or after one that is over.

A turn of a corpus with word times gives several: the whole of it, cut short after some of its words, and now and then
with a pause put in between two words before. Whatever a turn is cut after, it fades out and a pause of its recording's
own loudness follows, so that neither tells which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from usdm.turns.detector import SAMPLE_RATE, samples_of
from usdm.turns.voice_activity import FRAME, VoiceActivity

FADE = samples_of(10)
LEVEL_FRAME = samples_of(30)
QUIETEST = 0.05  # share of a recording's frames that are no speech
GAP_FRAMES = 3  # without speech between two words of a real person: there a pause fits in
QUIET = 0.35  # probability of speech below which a frame has none
SHORT_PAUSE = (160, 320)  # ms of quiet at the end of a moment, as a listener has heard when it is asked
EARLIER_SHARE = 0.3  # of moments, with a pause that the person got over before


@dataclass(frozen=True)
class PauseLengths:
    """Of pauses within turns, log-normal: most are short, some very long."""

    median: float = 0.7  # seconds
    spread: float = 0.5  # of the logarithm
    shortest: float = 0.25
    longest: float = 3.0

    def draw(self, random: np.random.Generator) -> int:
        """Samples."""
        seconds = np.exp(random.normal(np.log(self.median), self.spread))
        return round(float(np.clip(seconds, self.shortest, self.longest)) * SAMPLE_RATE)


def with_pauses(
    sound: Tensor, word_ends: Sequence[float], after: Sequence[tuple[int, int]], random: np.random.Generator
) -> Tensor:
    """The turn (T,) float32 at 16 kHz with pauses put in: (T',), up to the last of them.

    Args:
        word_ends: seconds.
        after: words by number, in order, and the pause after each in samples.
    """
    level, pieces, start = quietest_level(sound), [], 0
    for word, pause in after:
        end = round(word_ends[word] * SAMPLE_RATE)
        pieces += [fade_out(sound[start:end]), noise(pause, level, random)]
        start = end
    return torch.cat(pieces)


def quietest_level(sound: Tensor) -> float:
    """Root mean square of (T,) where nobody speaks."""
    frames = sound[: len(sound) // LEVEL_FRAME * LEVEL_FRAME].view(-1, LEVEL_FRAME)
    return float(frames.pow(2).mean(1).sqrt().quantile(QUIETEST)) if len(frames) else 0.0


def noise(samples: int, level: float, random: np.random.Generator) -> Tensor:
    """(samples,) float32, white."""
    return torch.from_numpy(level * random.standard_normal(samples)).float()


def fade_out(sound: Tensor) -> Tensor:
    ramp = min(FADE, len(sound))
    return torch.cat([sound[: len(sound) - ramp], sound[len(sound) - ramp :] * torch.linspace(1, 0, ramp)])


def places_of_pauses(sound: Tensor) -> list[float]:
    """Seconds at which nobody speaks for some frames, and where the last speech ends."""
    spoken = [place for place, probability in enumerate(VoiceActivity().push(sound)) if probability >= QUIET]
    if not spoken:
        return [len(sound) / SAMPLE_RATE]
    gaps = [place + 1 for place, following in zip(spoken, spoken[1:], strict=False) if following - place > GAP_FRAMES]
    return [place * FRAME / SAMPLE_RATE for place in [*gaps, spoken[-1] + 1]]


@dataclass(frozen=True)
class Moment:
    """A short pause, as a listener meets it."""

    sound: Tensor  # (T,) float32 at 16 kHz: the turn so far, with the pause
    over: bool


def moments(
    sound: Tensor, word_ends: Sequence[float], cuts: int, lengths: PauseLengths, random: np.random.Generator
) -> list[Moment]:
    """The turn (T,) float32 at 16 kHz as a whole, and cut short at up to `cuts` places.

    Args:
        word_ends: seconds; where they are not known (empty), it is cut where the person stopped for a moment.
    """
    ends = list(word_ends) or places_of_pauses(sound)
    last = len(ends) - 1
    places = [last, *map(int, random.permutation(last)[:cuts])]
    return [Moment(_up_to(place, sound, ends, lengths, random), place == last) for place in places]


def _up_to(
    place: int, sound: Tensor, ends: Sequence[float], lengths: PauseLengths, random: np.random.Generator
) -> Tensor:
    after = [(place, samples_of(float(random.uniform(*SHORT_PAUSE))))]
    if place and random.random() < EARLIER_SHARE:
        after.insert(0, (int(random.integers(place)), lengths.draw(random)))
    return with_pauses(sound, ends, after, random)
