"""Noise on heard units."""

from __future__ import annotations

import numpy as np
import pytest

from usdm.data.unit_noise import UnitNoise
from usdm.types import InputError


def test_nothing_changes_without_noise() -> None:
    units = np.arange(50)
    assert UnitNoise().vary(units, 100, np.random.default_rng(0)).tolist() == units.tolist()


def test_substitution_replaces_about_its_share() -> None:
    units = np.zeros(20_000, np.int64)
    varied = UnitNoise(substituted=0.1).vary(units, 1000, np.random.default_rng(0))
    assert len(varied) == len(units)
    assert np.mean(varied != 0) == pytest.approx(0.1, abs=0.01)
    assert varied.min() >= 0 and varied.max() < 1000


def test_stretching_keeps_the_order_and_the_bounds() -> None:
    units = np.arange(100)
    lengths = set()
    for seed in range(50):
        varied = UnitNoise(stretch=0.2).vary(units, 100, np.random.default_rng(seed))
        assert (np.diff(varied) >= 0).all()
        assert varied[0] == 0 and varied[-1] >= 98
        lengths.add(len(varied))
    assert 80 <= min(lengths) < 90 and 110 < max(lengths) <= 120
    assert len(UnitNoise(stretch=0.9).vary(np.array([7]), 10, np.random.default_rng(0))) >= 1


@pytest.mark.parametrize("settings", [{"substituted": -0.1}, {"stretch": 1.0}])
def test_shares_outside_their_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="below 1"):
        UnitNoise(**settings)
