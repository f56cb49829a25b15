"""No detection: the client says where a turn begins and ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from usdm.turns.detector import TurnEvent
from usdm.units import UnitTokenizer


@dataclass(frozen=True)
class PushToTalk:
    """Its detector never finds anything."""

    @property
    def pause(self) -> int:
        return 0

    def detector(self, units: UnitTokenizer, bundle: Path) -> PushToTalk:
        return self

    def push(self, wav: Tensor, units: Tensor, playing: bool) -> list[TurnEvent]:
        return []
