"""What every way to find turns has in common. Times are samples at 16 kHz, counted from the session's first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from usdm.units import UnitTokenizer

SAMPLE_RATE = 16_000  # Hz


@dataclass(frozen=True)
class SpeechStarted:
    """The person speaks: a turn begins."""

    sample: int  # the turn's first, with the prefix padding before the speech


@dataclass(frozen=True)
class SpeechStopped:
    """The turn is over: it is to be answered."""

    sample: int  # the turn's end, with the pause in which this was decided


@dataclass(frozen=True)
class SpeechSuspected:
    """While a reply is played: something that may become a turn, or a cough. It starts, or is dismissed."""

    sample: int  # heard so far


@dataclass(frozen=True)
class SpeechDismissed:
    """What was suspected is over, and was too short to be a turn."""

    sample: int  # heard so far


TurnEvent = SpeechStarted | SpeechStopped | SpeechSuspected | SpeechDismissed


class TurnDetector(Protocol):
    """Of one session. Turns come in pairs: started, stopped, started, ..."""

    @property
    def pause(self) -> int:
        """Samples without speech that a turn ends with so far; 0 outside of turns."""
        ...

    def push(self, wav: Tensor, units: Tensor, playing: bool) -> list[TurnEvent]:
        """What new sound brings.

        Args:
            wav: (t,) float32 at 16 kHz, any number of new samples.
            units: (u,) int64, units of the turn that are newly settled; often none.
            playing: whether a reply is being played to the person meanwhile.
        """
        ...


class TurnDetection(Protocol):
    """The settings of one way to find turns: a frozen dataclass, a choice of `conf/turn_detection`.

    `dataclasses.replace` makes those of a session that wants other values.
    """

    def detector(self, units: UnitTokenizer, bundle: Path) -> TurnDetector:
        """For a new session with the model in the folder `bundle`, which hears with `units`.

        Raises InputError if the model lacks what it takes.
        """
        ...


def samples_of(milliseconds: float) -> int:
    return round(milliseconds * SAMPLE_RATE / 1000)
