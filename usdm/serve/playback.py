"""How much of a reply's sound its listener has heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class Playback:
    """Of one item. The client may say what was played; until then it is taken to play what it gets when it gets it."""

    item_id: str
    clock: Callable[[], float]  # seconds
    sent_ms: float = 0.0
    _played_ms: float = 0.0
    _at: float | None = None  # when so much was played
    _is_held: bool = False

    def send(self, milliseconds: float) -> None:
        """More was sent."""
        now = self.clock()
        if self._at is None or (self.played_ms >= self.sent_ms and not self._is_held):  # it waited for more
            self._played_ms, self._at = self.sent_ms, now
        self.sent_ms += milliseconds

    def acknowledge(self, milliseconds: float) -> None:
        """The client has played so much by now."""
        self._played_ms, self._at = min(milliseconds, self.sent_ms), self.clock()

    def hold(self) -> None:
        """The client plays nothing until `resume`."""
        self._played_ms, self._is_held = self.played_ms, True

    def resume(self) -> None:
        self._is_held = False
        if self._at is not None:
            self._at = self.clock()

    @property
    def played_ms(self) -> float:
        since = 0.0 if self._at is None or self._is_held else 1000 * (self.clock() - self._at)
        return min(self.sent_ms, self._played_ms + since)
