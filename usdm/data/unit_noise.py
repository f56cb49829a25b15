"""Noise on heard units, so that a small corpus is listened to rather than remembered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usdm.types import InputError


@dataclass(frozen=True)
class UnitNoise:
    """How units are varied each time they are read.

    Raises:
        InputError: a share outside 0..1.
    """

    substituted: float = 0.0  # share of units replaced by any other
    stretch: float = 0.0  # speech is up to this share faster or slower

    def __post_init__(self) -> None:
        for name in ("substituted", "stretch"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give a share of 0 or more, below 1")

    def vary(self, units: NDArray[np.int64], num_units: int, random: np.random.Generator) -> NDArray[np.int64]:
        """(U,) -> (U',): stretched by repeating or leaving out units, then with some of them replaced."""
        tempo = 1 + random.uniform(-self.stretch, self.stretch)
        length = max(1, round(len(units) * tempo))
        varied = units[np.minimum((np.arange(length) / tempo).astype(np.int64), len(units) - 1)]
        replaced = random.random(length) < self.substituted
        return np.where(replaced, random.integers(num_units, size=length), varied)
