"""Conditional flow matching (arXiv 2210.02747) with optimal-transport paths, for any velocity function.

Noise z at time 0 moves on a straight line to data x at time 1: (1 - (1 - sigma_min) t) z + t x, so its
velocity is x - (1 - sigma_min) z everywhere. Shapes: B batch, C channels, M frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Solver = Literal["euler", "heun"]
Estimate = Literal["velocity", "data"]  # what a network says of a state: where it goes, or where it ends
ESTIMATES: tuple[Estimate, ...] = get_args(Estimate)
Velocity = Callable[[Tensor, Tensor], Tensor]  # state (B, C, M), time (B,) -> velocity (B, C, M)
Constraint = Callable[[Tensor, float], Tensor]  # state (B, C, M), its time -> state to go on from


def path(noise: Tensor, data: Tensor, time: Tensor | float, sigma_min: float) -> Tensor:
    """The point at `time` (broadcast over (B, C, M)) between noise and data."""
    return (1 - (1 - sigma_min) * time) * noise + time * data


def path_velocity(noise: Tensor, data: Tensor, sigma_min: float) -> Tensor:
    """Where the path from noise to data goes, at any time: all (B, C, M)."""
    return data - (1 - sigma_min) * noise


def velocity_to(data: Tensor, state: Tensor, time: Tensor, sigma_min: float) -> Tensor:
    """The velocity that leads from `state` at `time` (B,) straight to `data`: all (B, C, M).

    With the true data this is the path's own velocity. Noise that `state` holds leaves in what is left of the time,
    so that a network which estimates the data need not tell noise apart to the last bit (arXiv 2511.13720).
    """
    scale = 1 - sigma_min
    return (data - scale * state) / (1 - scale * time[:, None, None])


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
