"""The turn is over when a head on the encoder's states says so after a short pause, or else after a long one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from usdm.turns.detector import TurnEvent, samples_of
from usdm.turns.head import HEAD_FOLDER, HEARD, TurnHead, turn_states
from usdm.turns.silence import Pause, Speech, SpeechTracker, check_milliseconds
from usdm.turns.voice_activity import FRAME
from usdm.types import InputError
from usdm.units import UnitExtractor, UnitTokenizer


@dataclass(frozen=True)
class TurnHeadRule(Speech):
    """See `Speech`. Raises InputError for values that cannot be."""

    over: float = 0.8  # the head's probability from which the turn ends after the short pause
    short_ms: int = 200  # without speech, then the head is asked
    long_ms: int = 1500  # without speech, that end the turn whatever the head says
    head: str | None = None  # its folder; None: the one in the model's bundle

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.over < 1:
            raise InputError(f"over={self.over}: a probability between 0 and 1 is needed; 0.8 is usual")
        for name in ("short_ms", "long_ms"):
            check_milliseconds(name, getattr(self, name))
        if self.long_ms < self.short_ms:
            raise InputError(f"long_ms={self.long_ms} is shorter than short_ms={self.short_ms}: make it longer")

    def detector(self, units: UnitTokenizer, bundle: Path) -> TurnHeadDetector:
        if not isinstance(units, UnitExtractor):
            raise InputError(
                f"turn_detection=turn_head asks an SSL encoder's states, and this model's units come from a "
                f"{type(units).__name__}; choose turn_detection=silence"
            )
        folder = Path(self.head) if self.head is not None else bundle / HEAD_FOLDER
        return TurnHeadDetector(self, TurnHead.from_pretrained(folder, units), units)


class TurnHeadDetector:
    """See `TurnDetector`. The head is asked once in each pause, about the turn's sound up to then."""

    def __init__(self, rule: TurnHeadRule, head: TurnHead, extractor: UnitExtractor) -> None:
        self._rule, self.head, self.extractor = rule, head, extractor
        self._tracker = SpeechTracker(rule, self._is_over)
        self._recent = torch.zeros(0)  # the sound that the head may be asked about
        self._dropped = 0  # samples before it
        self._asked: int | None = None  # where the pause began about which it was asked last
        self._probability = 0.0  # what it said

    @property
    def pause(self) -> int:
        """See `TurnDetector`."""
        return self._tracker.pause

    def push(self, wav: Tensor, units: Tensor, playing: bool) -> list[TurnEvent]:
        events = []
        for piece in wav.float().cpu().split(FRAME):
            self._recent = torch.cat([self._recent, piece])
            events += self._tracker.push(piece, units, playing)
        surplus = max(0, len(self._recent) - HEARD - FRAME)
        self._recent, self._dropped = self._recent[surplus:], self._dropped + surplus
        return events

    def _is_over(self, pause: Pause) -> bool:
        if pause.samples < samples_of(self._rule.short_ms):
            return False
        if pause.samples >= samples_of(self._rule.long_ms):
            return True
        start = pause.now - pause.samples
        if start != self._asked:
            heard = self._recent[max(0, pause.turn - self._dropped) : pause.now - self._dropped]
            self._asked, self._probability = start, probability_of_end(self.head, self.extractor, heard)
        return self._probability >= self._rule.over


@torch.inference_mode()
def probability_of_end(head: TurnHead, extractor: UnitExtractor, sound: Tensor) -> float:
    """Of a turn so far (T,) float32 at 16 kHz, with a short pause at its end."""
    return float(torch.sigmoid(head(turn_states(extractor, [sound])))[0])
