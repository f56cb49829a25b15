"""Sound of frames while they still come: windows with context on both sides, of which the inner part is kept.

A network of convolutions looks a limited number of frames around each sample. With as much context, a window's inner
part is what all frames together give, so a stream says exactly what is said at once (but for rounding).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

FIRST_SECONDS, CHUNK_SECONDS = 0.16, 0.48  # of what is decoded at once: soon heard, then with less context each


@dataclass(frozen=True)
class Context:
    """Frames around one, beyond which nothing changes its samples."""

    left: int | None  # None: all that came before counts
    right: int


class Convolution(NamedTuple):
    """A layer on the way from frames to samples."""

    kernel: int
    dilation: int = 1
    upsampling: int = 1  # above 1 it is a transposed convolution


def context_of(layers: Iterable[Convolution]) -> Context:
    """Of centred convolutions, given in the order of the data; at most a frame more for each upsampling."""
    reach = 0  # samples, or what comes before a layer
    for layer in reversed(list(layers)):
        if layer.upsampling > 1:
            reach = (reach + layer.kernel) // layer.upsampling + 1
        else:
            reach += layer.dilation * (layer.kernel // 2)
    return Context(reach, reach)


class WindowStream:
    """Frames in as they come, settled sound out.

    Args:
        decode: (..., T) frames -> (T * hop,) float32 samples, on the CPU.
        hop: samples of a frame.
        frame_rate: Hz.
        context: what `decode` needs around a frame.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor], hop: int, frame_rate: float, context: Context) -> None:
        self._decode, self._hop, self._context = decode, hop, context
        self._wanted = max(1, round(FIRST_SECONDS * frame_rate))  # frames that are worth a window
        self._chunk = max(1, round(CHUNK_SECONDS * frame_rate))
        self._frames: Tensor | None = None  # context of what is done, and what is not done
        self._done = 0  # frames of `_frames` that were given as sound
        self.timings: dict[str, float] = {}

    def push(self, frames: Tensor) -> Tensor:
        """(..., t), the next frames -> (n,) the next samples, often none."""
        self._frames = frames if self._frames is None else torch.cat([self._frames, frames], dim=-1)
        settled = self._frames.shape[-1] - self._context.right
        return self._sound(settled) if settled - self._done >= self._wanted else torch.zeros(0)

    def finish(self) -> Tensor:
        """(n,) the samples of all frames that are left."""
        return torch.zeros(0) if self._frames is None else self._sound(self._frames.shape[-1])

    def _sound(self, end: int) -> Tensor:
        """Of the frames from those done to `end`, with all frames as context."""
        if end <= self._done or self._frames is None:
            return torch.zeros(0)
        start = time.perf_counter()
        sound = self._decode(self._frames)[self._done * self._hop : end * self._hop]
        self.timings["decode"] = self.timings.get("decode", 0.0) + time.perf_counter() - start
        left = self._context.left
        dropped = 0 if left is None else max(0, end - left)
        self._frames, self._done, self._wanted = self._frames[..., dropped:], end - dropped, self._chunk
        return sound


class CodeStream:
    """Units of a codec in as they come; their whole frames go to a window.

    `frames`: (U,) units -> (Q, F) codes. Those of more units begin with those of fewer.
    """

    def __init__(self, frames: Callable[[Tensor], Tensor], window: WindowStream) -> None:
        self._frames_of, self._window = frames, window
        self._units = torch.empty(0, dtype=torch.int64)  # all: a unit out of order is carried on from those before
        self._given = 0  # frames that the window has
        self.timings = window.timings

    def push(self, units: Tensor) -> Tensor:
        self._units = torch.cat([self._units, units.cpu()])
        frames = self._frames_of(self._units)
        new, self._given = frames[:, self._given :], frames.shape[1]
        return self._window.push(new)

    def finish(self) -> Tensor:
        return self._window.finish()
