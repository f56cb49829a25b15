"""What finds the ends of turns, as the server uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class SpeechStarted:
    sample: int  # at 16 kHz, counted from the first


@dataclass(frozen=True)
class SpeechStopped:
    sample: int


class TurnDetector(Protocol):
    def push(self, wav: Tensor, units: Tensor, playing: bool) -> list[SpeechStarted | SpeechStopped]:
        """(t,) new samples at 16 kHz, (u,) newly settled units of the turn, whether the reply is being played."""
        ...
