"""Several channels to one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

# Of the power that the mean of unrelated channels has. Channels that agree have more; below it they cancel.
CANCELLED = 0.25


def mix_down(channels: Tensor, warn: Callable[[str], None]) -> Tensor:
    """(T, C) -> (T,): the mean, or the loudest channel where channels cancel each other, as those of a microphone do
    that is wired the wrong way round: their mean is not their content. `warn` is told of it."""
    count = channels.shape[1]
    mean = channels.mean(dim=1)
    if count == 1:
        return mean
    powers = channels.double().square().mean(dim=0)  # (C,)
    if mean.double().square().mean() * count**2 >= CANCELLED * powers.sum():
        return mean
    loudest = int(powers.argmax())
    warn(f"its {count} channels cancel each other in the mean: channel {loudest} (from 0) is taken alone")
    return channels[:, loudest]
