"""Conditional flow matching (arXiv 2210.02747) with optimal-transport paths, for any velocity function.

Noise z at time 0 moves on a straight line to data x at time 1: (1 - (1 - sigma_min) t) z + t x, so its
velocity is x - (1 - sigma_min) z everywhere. Shapes: B batch, C channels, M frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Solver = Literal["euler", "heun"]
Velocity = Callable[[Tensor, Tensor], Tensor]  # state (B, C, M), time (B,) -> velocity (B, C, M)
Constraint = Callable[[Tensor, float], Tensor]  # state (B, C, M), its time -> state to go on from


def path(noise: Tensor, data: Tensor, time: Tensor | float, sigma_min: float) -> Tensor:
    """The point at `time` (broadcast over (B, C, M)) between noise and data."""
    return (1 - (1 - sigma_min) * time) * noise + time * data


def velocity_error(velocity: Velocity, data: Tensor, noise: Tensor, time: Tensor, sigma_min: float) -> Tensor:
    """What `velocity` misses on the path at `time` (B,): noise and data (B, C, M) -> (B, C, M).

    The flow matching loss is its mean square.
    """
    given = velocity(path(noise, data, time[:, None, None], sigma_min), time)
    return given - (data - (1 - sigma_min) * noise)


def masked_mean(values: Tensor, scored: Tensor) -> Tensor:
    """Mean of (B, C, M) over the frames that `scored` (B, 1, M) marks with 1."""
    return (values * scored).sum() / (scored.sum() * values.shape[1])


def integrate(
    velocity: Velocity, noise: Tensor, steps: int, solver: Solver, constrain: Constraint | None = None
) -> Tensor:
    """From noise at time 0 to data at time 1: (B, C, M) -> (B, C, M).

    "euler" takes `steps` intervals. "heun" takes (steps + 1) // 2, each with a second evaluation at its end
    except the last, where the velocity is least certain: about `steps` evaluations either way. `constrain` is
    applied after every move.
    """
    intervals = steps if solver == "euler" else (steps + 1) // 2
    times = torch.linspace(0, 1, intervals + 1).tolist()
    constrain = constrain or _unconstrained
    state = noise
    for interval, (start, end) in enumerate(zip(times, times[1:], strict=False)):
        slope = velocity(state, _batch_time(state, start))
        moved = constrain(state + (end - start) * slope, end)
        if solver == "heun" and interval < intervals - 1:
            slope_there = velocity(moved, _batch_time(state, end))
            moved = constrain(state + (end - start) * (slope + slope_there) / 2, end)
        state = moved
    return state


def _unconstrained(state: Tensor, time: float) -> Tensor:
    return state


def _batch_time(state: Tensor, time: float) -> Tensor:
    return state.new_full((len(state),), time)
