"""What every way from units to sound offers: whole, in batches, and while units still come.

A kind of one's own is a subclass of `UnitToSpeech` in any module that Python can import.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from usdm.decoder.flow_matching import Solver
from usdm.types import InputError, ReferenceVoice, Waveform

UNIT_HIFIGAN = "unit_hifigan"  # the model_type of `usdm.unit_to_speech.hifigan`


@dataclass(frozen=True)
class DecoderSampling:
    """How flow matching draws mels from units; see `UnitDecoder.generate`. Defaults are the published ones.

    Other kinds draw nothing, and do not look at it.
    """

    steps: int = 50
    solver: Solver = "heun"
    guidance: float = 1.0
    temperature: float = 1.0


@dataclass(frozen=True)
class Synthesis:
    """Sounds, and the seconds that each step took for all of them together."""

    sounds: list[Tensor]  # (T,) float32 each, at the sample rate of what made them
    timings: Mapping[str, float]


class UnitToSpeechStream(Protocol):
    """One reply's units in as they come, its sound out as soon as it is settled."""

    def push(self, units: Tensor) -> Tensor:
        """(n,) int64, the next units -> (t,) float32, the next samples, often none."""

    def finish(self) -> Tensor:
        """(t,) float32, the samples that are left: no unit follows."""

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by step, so far."""


class UnitToSpeech(nn.Module, ABC):
    """Sequences of units in, sounds out. What is abstract here is all that a kind of one's own must have."""

    @property
    @abstractmethod
    def num_units(self) -> int:
        """K."""

    @property
    @abstractmethod
    def unit_rate(self) -> float:
        """Units a second."""

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Hz of the sound."""

    @abstractmethod
    def forward(
        self,
        units: Sequence[Tensor],
        voices: Sequence[ReferenceVoice | None],
        seeds: Sequence[int],
        sampling: DecoderSampling,
    ) -> Synthesis:
        """Sequences (U,) int64 of any lengths -> a sound for each, as it sounds alone.

        `voices` to speak in and `seeds` of what is drawn: one for each sequence. Raises InputError for units that it
        does not know, or a voice where it has but one.
        """

    def stream(self, voice: ReferenceVoice | None, seed: int, sampling: DecoderSampling) -> UnitToSpeechStream:
        """Sound while units still come. One that knows no better waits for the last."""
        return WholeStream(self, voice, seed, sampling)

    def voice(self, units: Tensor, recording: Waveform) -> ReferenceVoice:
        """A recording, and its units (U,), as a voice to speak in. Raises InputError for a kind that has one voice."""
        raise one_voice_alone(self)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def check_units(self, units: Tensor) -> None:
        """Raises InputError for what is no sequence of units that it knows."""
        if units.dim() != 1 or len(units) == 0:
            raise InputError(f"units of shape {tuple(units.shape)}: a sequence (U,) of at least one is needed")
        if (lowest := int(units.min())) < 0 or int(units.max()) >= self.num_units:
            raise InputError(
                f"units {lowest}..{int(units.max())}: this decoder knows 0..{self.num_units - 1}; take the unit "
                "tokenizer that it was trained with"
            )

    @classmethod
    @abstractmethod
    def from_pretrained(cls, folder: str | Path) -> UnitToSpeech:
        """Read what `save_pretrained` wrote. Raises InputError for what is missing or damaged."""


class OneVoice(UnitToSpeech):
    """A kind whose units or training gave it its voice, and that draws nothing: each sequence is spoken by itself."""

    @abstractmethod
    def speak(self, units: Tensor) -> Tensor:
        """(U,) units that it knows -> (T,) float32, on the CPU."""

    @torch.inference_mode()
    def forward(
        self,
        units: Sequence[Tensor],
        voices: Sequence[ReferenceVoice | None],
        seeds: Sequence[int],
        sampling: DecoderSampling,
    ) -> Synthesis:
        """As `UnitToSpeech.forward`."""
        refuse_voices(self, voices)
        start = time.perf_counter()
        for row in units:
            self.check_units(row)
        return Synthesis([self.speak(row) for row in units], {"decode": time.perf_counter() - start})


class WholeStream:
    """Units that are kept to the last one, and then spoken at once."""

    def __init__(
        self, speaker: UnitToSpeech, voice: ReferenceVoice | None, seed: int, sampling: DecoderSampling
    ) -> None:
        self._speaker, self._voice, self._seed, self._sampling = speaker, voice, seed, sampling
        self._units: list[Tensor] = []
        self.timings: Mapping[str, float] = {}

    def push(self, units: Tensor) -> Tensor:
        self._units.append(units.cpu())
        return torch.zeros(0)

    def finish(self) -> Tensor:
        if not self._units:
            return torch.zeros(0)
        spoken = self._speaker([torch.cat(self._units)], [self._voice], [self._seed], self._sampling)
        self.timings = spoken.timings
        return spoken.sounds[0]


def refuse_voices(speaker: UnitToSpeech, voices: Sequence[ReferenceVoice | None]) -> None:
    """Raises InputError if a voice is given to a kind that has but one."""
    if any(voice is not None for voice in voices):
        raise one_voice_alone(speaker)


def one_voice_alone(speaker: UnitToSpeech) -> InputError:
    return InputError(
        f"a reference voice for {type(speaker).__name__}: it speaks in the voice that its units or its training gave "
        "it; leave the voice out, or take a flow matching decoder"
    )
