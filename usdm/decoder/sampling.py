"""Settings of sampling that can be wrong, and seeds."""

from __future__ import annotations

from typing import get_args

import torch

from usdm.decoder.flow_matching import Solver
from usdm.types import InputError


def check_decoding(steps: int, solver: str, temperature: float) -> None:
    """Raises InputError for settings out of range."""
    if steps < 1:
        raise InputError(f"steps={steps}: the decoder needs at least 1")
    if solver not in get_args(Solver):
        raise InputError(f"solver={solver!r}: choose one of {', '.join(get_args(Solver))}")
    if temperature < 0:
        raise InputError(f"temperature={temperature}: it scales the noise and must not be negative")


def draw_seed(generator: torch.Generator | None) -> int:
    """What a generator gives as the seed of a sequence's own noise; None is torch's global one."""
    return int(torch.randint(2**62, (), generator=generator))


def seeded(seed: int) -> int:
    """The same from a fresh generator with the manual seed `seed`."""
    return draw_seed(torch.Generator().manual_seed(seed))
