"""The reply's own sound in the microphone: what of it is echo, and what is somebody who speaks.

Loudness is compared in frames of ten milliseconds. What was sent tells how loud an echo can be: by a gain and a delay
that are learnt while a reply is played, and a decay, as rooms have it. A frame that is not clearly louder than that is
silenced for the detector of speech. Until the echo is known, it may be as loud as what was sent, and come at any time
within the longest delay, so at first only somebody who is louder than the reply gets through.

The threshold adapts like that of echo suppressors in telephony (ITU-T G.164); nothing is subtracted, so the model
always hears what the microphone heard.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Levels = NDArray[np.float64]  # dB relative to full scale, one for each frame

FRAME = 0.01  # seconds
WINDOW = 0.3  # seconds after the last sound of a reply has come back, in which the room still rings
LONGEST_DELAY = 60  # frames, from sending sound to hearing its echo
MEMORY = 400  # frames that the echo is learnt from
LEAST = 60  # of them in which a reply sounds, before anything is learnt
CORRELATION = 0.6  # of both loudnesses, from which on what is heard is echo
SILENT = -60.0  # dB: below it nothing is played
FLOOR = -100.0  # dB, of digital silence
DECAY = 1.2  # dB a frame: a room that needs half a second to fall by 60 dB
MARGIN = 6.0  # dB by which somebody who speaks is louder than the echo: what loudness varies by within a frame
HANG = 8  # frames from a loud one on that pass with it: words are not loud all the time
SPREAD = 3  # frames by which a delay may be wrong


class EchoGuard:
    """One session's. Sound that is sent is told with `play`; the clock is that of the samples pushed."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._frame = round(FRAME * sample_rate)
        self._now = 0  # samples pushed
        self._end = 0  # where the reply's sound ends, if it is played as it was sent
        self._held: Levels | None = None  # sound that waits until `resume`
        self._first = -MEMORY  # the frame at which both memories begin
        self._sent = np.full(MEMORY, FLOOR)
        self._heard = np.full(MEMORY, FLOOR)
        self._rest = torch.zeros(0)  # pushed, less than a frame
        self._gain = 0.0  # dB of the echo, relative to what is sent
        self._delay: int | None = None  # frames; None: not known yet
        self._open = 0  # frames for which sound still passes

    @property
    def is_playing(self) -> bool:
        """Whether a reply's sound, or its echo, may be in the room."""
        if self._held is not None:
            return True
        delay = LONGEST_DELAY if self._delay is None else self._delay + SPREAD
        return self._now < self._end + delay * self._frame + WINDOW * self._rate

    def play(self, samples: Tensor) -> None:
        """(t,) at the guard's rate: sent now, to be played after what was sent before."""
        levels = _levels(samples, self._frame)
        if self._held is None:
            self._schedule(levels, len(samples))
        else:
            self._held = np.concatenate([self._held, levels])

    def hold(self) -> None:
        """What was not played yet, and what is sent from now on, waits until `resume`."""
        end = -(-self._end // self._frame)
        waiting = self._sent[self._now // self._frame - self._first + 1 : max(0, end - self._first)].copy()
        self.stop()
        self._held = waiting

    def resume(self) -> None:
        """Play on."""
        waiting, self._held = self._held, None
        if waiting is not None and len(waiting):
            self._schedule(waiting, len(waiting) * self._frame)

    def stop(self) -> None:
        """What was not played yet will not be."""
        self._held = None
        self._end = min(self._end, self._now)
        self._sent[self._now // self._frame - self._first + 1 :] = FLOOR

    def _schedule(self, levels: Levels, samples: int) -> None:
        start = max(self._end, self._now)
        self._end = start + samples
        place = start // self._frame - self._first
        missing = place + len(levels) - len(self._sent)
        self._sent = np.concatenate([self._sent, np.full(max(0, missing), FLOOR)])
        self._sent[place : place + len(levels)] = np.maximum(self._sent[place : place + len(levels)], levels)

    def push(self, samples: Tensor) -> Tensor:
        """(t,) from the microphone -> (s,) the same for a detector of speech, echo silenced, in whole frames."""
        sound = torch.cat([self._rest, samples])
        whole = len(sound) // self._frame * self._frame
        self._rest = sound[whole:]
        new = _levels(sound[:whole], self._frame)
        before = self._now // self._frame
        self._now += whole
        self._heard = np.concatenate([self._heard, new])
        self._sent = np.concatenate([self._sent, np.full(max(0, len(self._heard) - len(self._sent)), FLOOR)])
        if not self.is_playing and self._open == 0:
            self._forget()
            return sound[:whole]
        passed = np.ones(len(new))
        for place, level in enumerate(new):
            frame = before + place
            self._open = HANG if level > self._echo_at(frame) + MARGIN else max(0, self._open - 1)
            passed[place] = float(self._open > 0)
            if frame % 20 == 0:
                self._learn(frame)
        self._forget()
        mask = torch.from_numpy(passed).to(sound.dtype).repeat_interleave(self._frame)
        return sound[:whole] * mask

    def _echo_at(self, frame: int) -> float:
        """The level that an echo may have in a frame."""
        if self._delay is None:
            earliest, latest = 0, LONGEST_DELAY
        else:
            earliest, latest = max(0, self._delay - SPREAD), self._delay + LONGEST_DELAY
        last = frame - self._first - earliest
        first = max(0, frame - self._first - latest)
        sent = self._sent[first : max(first, last + 1)]
        if len(sent) == 0:
            return FLOOR
        age = np.arange(len(sent))[::-1]
        decay = 0.0 if self._delay is None else DECAY * np.maximum(0, age - 2 * SPREAD)
        return float((sent - decay).max()) + self._gain

    def _learn(self, frame: int) -> None:
        """Gain and delay, where what is heard follows what is sent."""
        end, length = frame - self._first, MEMORY // 2
        if end < length + LONGEST_DELAY:
            return
        heard = self._heard[end - length : end]
        views = np.lib.stride_tricks.sliding_window_view(self._sent[end - length - LONGEST_DELAY : end], length)
        sent = views[::-1]  # (delays, frames), the shortest delay first
        sounds = sent > SILENT
        audible = np.maximum(sent, SILENT)
        audible = audible - audible.mean(axis=1, keepdims=True)
        follows = heard - heard.mean()
        scale = np.linalg.norm(audible, axis=1) * np.linalg.norm(follows)
        correlations = np.where(sounds.sum(axis=1) >= LEAST, audible @ follows / np.maximum(scale, 1e-9), 0.0)
        delay = int(correlations.argmax())
        if correlations[delay] > CORRELATION:
            self._delay, self._gain = delay, float(np.median((heard - sent[delay])[sounds[delay]]))

    def _forget(self) -> None:
        """Keep what echo may come of, or be learnt from."""
        surplus = self._now // self._frame - self._first - MEMORY
        if surplus > MEMORY:
            self._first += surplus
            self._sent, self._heard = self._sent[surplus:], self._heard[surplus:]


def _levels(samples: Tensor, frame: int) -> Levels:
    """(t,) -> (ceil(t / frame),)"""
    short = -len(samples) % frame
    power = torch.nn.functional.pad(samples, (0, short)).view(-1, frame).double().square().mean(dim=1).numpy()
    levels: Levels = 10 * np.log10(power + 10 ** (FLOOR / 10))
    return levels


def room(seconds: float, sample_rate: int, seed: int = 0) -> Tensor:
    """(t,) impulse response of a room in which sound falls by 60 dB in so many seconds; its energy is 1."""
    length = max(1, round(seconds * sample_rate))
    noise = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    tail = noise * torch.exp(-math.log(1000) * torch.arange(length) / length)
    tail = 0.5 * tail / tail.square().sum().sqrt()
    tail[0] += 1.0
    return tail / tail.square().sum().sqrt()
