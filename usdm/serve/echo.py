"""The reply's own sound in the microphone: what of it is echo, and what is somebody who speaks."""

from __future__ import annotations

from torch import Tensor

WINDOW = 0.3  # seconds after a reply's end in which its echo may still come


class EchoGuard:
    """One session's. Sound that is played is told with `play`; the clock is that of the samples pushed."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._now = 0  # samples pushed
        self._end = 0  # where the reply's sound ends, if it is played as it was sent

    @property
    def is_playing(self) -> bool:
        return self._now < self._end + WINDOW * self._rate

    def play(self, samples: Tensor) -> None:
        """(t,) at the guard's rate: sent now, to be played after what was sent before."""
        self._end = max(self._end, self._now) + len(samples)

    def stop(self) -> None:
        """What was not played yet will not be."""
        self._end = min(self._end, self._now)

    def push(self, samples: Tensor) -> Tensor:
        """(t,) from the microphone -> the same for a detector of speech."""
        self._now += len(samples)
        return samples
