"""Turn detection on held-out turns: how often a rule cuts in during a pause, and how long it waits at the end.

Each turn is heard once. Every pause in it is noted with its length, and with what the head thought of it; what any
rule would have done follows from that. So all windows and thresholds are judged on the same pauses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from usdm.metrics.intervals import Mean, MeanGap, mean_gap, mean_of
from usdm.turns import FRAME, SAMPLE_RATE, Pause, Speech, SpeechTracker, samples_of
from usdm.turns.moments import PauseLengths, noise, places_of_pauses, quietest_level, with_pauses

AFTERWARDS = 1.0  # seconds of quiet after a turn; whatever is waited for longer, nothing more comes
BEFORE = 0.5  # seconds of quiet before it


@dataclass(frozen=True)
class SpokenTurn:
    """A whole turn of a person, with pauses in it."""

    id: str
    speaker: str
    sound: Tensor  # (T,) float32 at 16 kHz, quiet at its end
    end: int  # sample after the last speech
    pauses: int  # that were put in


@dataclass(frozen=True)
class HeardPause:
    """A pause as the detector of speech heard it."""

    start: int  # sample
    samples: int  # until speech went on
    over: float  # the head's probability that the turn was over, a short pause after its start


@dataclass(frozen=True)
class HeardTurn:
    """What the detector of speech made of a turn."""

    turn: SpokenTurn
    inner: tuple[HeardPause, ...]  # pauses after which the turn went on
    last: HeardPause | None  # the one after the turn; None: nothing was heard of the turn


@dataclass(frozen=True)
class Rule:
    """When a pause ends a turn: after `short` if the head's probability is at least `threshold`, else after `long`."""

    short: int  # ms
    long: int  # ms; the same: silence alone
    threshold: float

    def wait(self, pause: HeardPause) -> int:
        """Samples, in whole frames."""
        window = samples_of(self.short if pause.over >= self.threshold else self.long)
        return -(-window // FRAME) * FRAME

    def cuts(self, heard: HeardTurn) -> bool:
        """Whether it answers before the turn is over."""
        return any(pause.samples >= self.wait(pause) for pause in heard.inner)

    def delay(self, heard: HeardTurn) -> float | None:
        """Seconds from the end of the last word to the decision; None: the turn was missed."""
        if heard.last is None:
            return None
        return (heard.last.start + self.wait(heard.last) - heard.turn.end) / SAMPLE_RATE


@dataclass(frozen=True)
class Point:
    """One rule on all turns."""

    rule: Rule
    cut_off: Mean  # share of turns with a pause
    median_delay: float  # seconds
    mean_delay: float
    slowest_delay: float  # 95th percentile
    missed: int  # turns of which nothing was heard


@dataclass(frozen=True)
class Comparison:
    """One rule with the head against silence alone."""

    head: Point
    as_fast: Point  # the longest silence whose median delay is not above the head's, or else the shortest
    fewer_cut_off: MeanGap  # share of turns with a pause, head minus that silence: below zero is better
    as_safe: Point | None  # the shortest silence that cuts in no more often; None: the longest does


def spoken_turn(
    id_: str,
    speaker: str,
    sound: Tensor,
    word_ends: Sequence[float],
    count: int,
    lengths: PauseLengths,
    random: np.random.Generator,
) -> SpokenTurn:
    """A recording (T,) float32 at 16 kHz with up to `count` pauses of drawn length.

    They come after drawn words, or, where the times of words are not known (`word_ends` is empty), where the person
    has stopped for a moment.
    """
    level = quietest_level(sound)
    ends = list(word_ends) or places_of_pauses(sound)
    inner = sorted(map(int, random.permutation(len(ends) - 1)[:count]))
    after = [(place, lengths.draw(random)) for place in inner]
    paused = with_pauses(sound, ends, [*after, (len(ends) - 1, 0)], random)
    before, afterwards = (noise(round(seconds * SAMPLE_RATE), level, random) for seconds in (BEFORE, AFTERWARDS))
    return SpokenTurn(id_, speaker, torch.cat([before, paused, afterwards]), len(before) + len(paused), len(after))


def hear(turn: SpokenTurn, speech: Speech, over: Callable[[Tensor], float], short: int) -> HeardTurn:
    """Note every pause of a turn. `over`: of the sound up to now, asked `short` ms into each pause."""
    tracker = _Notes(turn, speech, over, samples_of(short))
    tracker.listen()
    pauses = tracker.pauses
    if not pauses or pauses[-1].start + pauses[-1].samples < len(turn.sound) - FRAME:
        return HeardTurn(turn, tuple(pauses), None)
    return HeardTurn(turn, tuple(pauses[:-1]), pauses[-1])


class _Notes:
    """A tracker that never stops a turn."""

    def __init__(self, turn: SpokenTurn, speech: Speech, over: Callable[[Tensor], float], short: int) -> None:
        self._sound, self._over, self._short = turn.sound, over, short
        self._tracker = SpeechTracker(speech, self._note)
        self.pauses: list[HeardPause] = []

    def listen(self) -> None:
        self._tracker.push(self._sound, torch.zeros(0, dtype=torch.int64), playing=False)

    def _note(self, pause: Pause) -> bool:
        start = pause.now - pause.samples
        if not self.pauses or self.pauses[-1].start != start:
            self.pauses.append(HeardPause(start, pause.samples, 0.0))
        before = self.pauses[-1].samples
        over = self.pauses[-1].over
        if pause.samples >= self._short > before or (pause.samples == FRAME and self._short <= FRAME):
            over = self._over(self._sound[pause.turn : pause.now])
        self.pauses[-1] = HeardPause(start, pause.samples, over)
        return False


def judge(rule: Rule, heard: Sequence[HeardTurn], seed: int) -> Point:
    """Cut-offs over the turns with a pause, delays over all turns, whole speakers redrawn for the interval."""
    paused = [each for each in heard if each.turn.pauses]
    delays = [delay for each in heard if (delay := rule.delay(each)) is not None]
    cut = mean_of([float(rule.cuts(each)) for each in paused], [each.turn.speaker for each in paused], seed)
    assert cut is not None and delays
    return Point(
        rule,
        cut,
        float(np.median(delays)),
        float(np.mean(delays)),
        float(np.percentile(delays, 95)),
        sum(each.last is None for each in heard),
    )


def compare(head: Point, silences: Sequence[Point], heard: Sequence[HeardTurn], seed: int) -> Comparison:
    """See `Comparison`; `silences` in the order of their windows."""
    as_fast = [each for each in silences if each.median_delay <= head.median_delay + 1e-9]
    as_safe = [each for each in silences if each.cut_off.mean <= head.cut_off.mean]
    rival = as_fast[-1] if as_fast else silences[0]
    paused = [each for each in heard if each.turn.pauses]
    values, base = ([float(point.rule.cuts(each)) for each in paused] for point in (head, rival))
    fewer = mean_gap(values, base, [each.turn.speaker for each in paused], seed)
    return Comparison(head, rival, fewer, as_safe[0] if as_safe else None)
