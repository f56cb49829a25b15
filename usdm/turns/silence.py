"""The turn is over when nobody has spoken for a while: the rule of OpenAI's `server_vad`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from usdm.turns.detector import (
    SpeechDismissed,
    SpeechStarted,
    SpeechStopped,
    SpeechSuspected,
    TurnEvent,
    samples_of,
)
from usdm.turns.voice_activity import FRAME, VoiceActivity
from usdm.types import InputError
from usdm.units import UnitTokenizer

HYSTERESIS = 0.15  # below the threshold, speech that has begun still goes on, as in Silero's own iterator
GAP = 160  # ms without speech, after which a beginning that was too short to count is forgotten


@dataclass(frozen=True)
class Speech:
    """What counts as speech. Raises InputError for values that cannot be."""

    threshold: float = 0.5  # probability of speech in a frame
    prefix_padding_ms: int = 300  # sound before the first speech that still belongs to the turn
    speech_ms: int = 64  # that is needed to begin a turn
    interrupt_ms: int = 400  # the same while a reply is played: a cough or a "mhm" is shorter

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold={self.threshold}: a probability between 0 and 1 is needed; 0.5 is usual")
        for name in ("prefix_padding_ms", "speech_ms", "interrupt_ms"):
            check_milliseconds(name, getattr(self, name))


@dataclass(frozen=True)
class Silence(Speech):
    """See `Speech`; `silence_ms` without speech end the turn."""

    silence_ms: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_milliseconds("silence_ms", self.silence_ms)

    def detector(self, units: UnitTokenizer, bundle: Path) -> SpeechTracker:
        window = samples_of(self.silence_ms)
        return SpeechTracker(self, lambda pause: pause.samples >= window)


def check_milliseconds(name: str, value: int) -> None:
    if not 0 <= value <= 60_000:
        raise InputError(f"{name}={value}: give milliseconds from 0 to 60000")


@dataclass(frozen=True)
class Pause:
    """Nobody speaks within a turn."""

    turn: int  # the turn's first sample
    now: int  # samples heard
    samples: int  # without speech, the last of them


class SpeechTracker:
    """Follows speech frame by frame; `is_over` is asked at each frame of a pause whether it ends the turn.

    While nobody speaks, `interrupt_ms` of speech within a reply's sound or `speech_ms` outside it begin a turn.
    Within a reply's sound `speech_ms` are suspected to become one.
    """

    def __init__(self, speech: Speech, is_over: Callable[[Pause], bool]) -> None:
        self._speech = speech
        self._is_over = is_over
        self._activity = VoiceActivity()
        self._heard = 0  # samples, in whole frames
        self._stopped = 0  # where the last turn ended
        self._turn: int | None = None  # where the turn began that goes on
        self._begun: int | None = None  # where speech began that is not yet long enough for a turn
        self._spoken = 0  # samples of speech since
        self._suspected = False  # and that was told
        self._pause = 0  # samples without speech

    @property
    def pause(self) -> int:
        """See `TurnDetector`."""
        return 0 if self._turn is None else self._pause

    def push(self, wav: Tensor, units: Tensor, playing: bool) -> list[TurnEvent]:
        """See `TurnDetector`."""
        events = (self._frame(probability, playing) for probability in self._activity.push(wav))
        return [event for event in events if event is not None]

    def _frame(self, probability: float, playing: bool) -> TurnEvent | None:
        start, self._heard = self._heard, self._heard + FRAME
        goes_on = self._turn is not None or self._begun is not None
        speaks = probability >= self._speech.threshold - (HYSTERESIS if goes_on else 0)
        self._pause = 0 if speaks else self._pause + FRAME
        if self._turn is not None:
            over = not speaks and self._is_over(Pause(self._turn, self._heard, self._pause))
            return self._stop() if over else None
        if speaks:
            self._begun = start if self._begun is None else self._begun
            self._spoken += FRAME
            needed = self._speech.interrupt_ms if playing else self._speech.speech_ms
            if self._spoken >= samples_of(needed):
                return self._start(self._begun)
            if not self._suspected and self._spoken >= samples_of(self._speech.speech_ms):
                self._suspected = True
                return SpeechSuspected(self._heard)
            return None
        if self._pause >= samples_of(GAP):
            suspected, self._suspected = self._suspected, False
            self._begun, self._spoken = None, 0
            return SpeechDismissed(self._heard) if suspected else None
        return None

    def _start(self, begun: int) -> SpeechStarted:
        self._turn = max(self._stopped, begun - samples_of(self._speech.prefix_padding_ms))
        self._begun, self._spoken, self._suspected = None, 0, False
        return SpeechStarted(self._turn)

    def _stop(self) -> SpeechStopped:
        self._turn, self._stopped = None, self._heard
        return SpeechStopped(self._heard)
