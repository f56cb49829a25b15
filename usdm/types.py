"""Frozen value types that several rooms share. Shapes: B batch, T samples, U units, M mel frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["user", "agent"]


class InputError(ValueError):
    """An input that cannot be worked with: the message states the value, the rule and the way out."""


@dataclass(frozen=True)
class Waveform:
    """Mono sound."""

    samples: Tensor  # (T,) float32 in [-1, 1]
    sample_rate: int  # Hz

    @property
    def seconds(self) -> float:
        return self.samples.shape[-1] / self.sample_rate


@dataclass(frozen=True)
class AlignedWord:
    """A word and where it is spoken."""

    text: str
    start: float  # seconds
    end: float  # seconds


@dataclass(frozen=True)
class ReferenceVoice:
    """A recording that a reply's voice is modelled on, as the unit decoder wants it (Voicebox prompting)."""

    units: Tensor  # (U,) int64
    mel: Tensor  # (80, M) log-mel, not normalised


@dataclass(frozen=True)
class Turn:
    """One side's finished turn of a dialog, as later turns see it."""

    role: Role
    text: str
    units: Tensor | None = None  # (U,) int64


OWN_PACKAGES = ("usdm", "data_prep", "demo")  # of this project; other modules are the user's own, or installed
LARGEST_SEED = 2**63 - 1  # of 64 bits; torch would take a negative seed for another one, and numpy takes none


@dataclass(frozen=True)
class Sampling:
    """How one stage of the chain draws its tokens. Temperature 0 is greedy, or with `num_beams` a beam search."""

    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0
    num_beams: int = 1  # texts that are followed side by side, of which the likeliest is taken


@dataclass(frozen=True)
class SpokenReply:
    """What the chain heard, thought and said."""

    user_units: Tensor | None  # (U,) int64; None when the turn was typed
    user_text: str | None  # None in chains that do not transcribe
    agent_text: str | None  # None in chains that do not write the reply down
    agent_units: Tensor | None  # (U,) int64; None when the reply is text only
    waveform: Tensor | None  # (T,) float32 at `sample_rate`; None when the reply is text only
    sample_rate: int  # Hz
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by stage
    truncated: tuple[str, ...] = ()  # stages that met their token limit before their stop id
    first_sound: float | None = None  # seconds from the call to the first sound; None unless it was streamed
