"""What a recogniser is to those who ask one: a name, an identity, and sounds in, words out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from usdm.audio import resample
from usdm.types import Waveform

SILENCE = 1e-3  # peak, -60 dBFS; in digital silence recognisers hear words
SHORTEST = 0.05  # seconds; in less there is no word

Result = TypeVar("Result")


class Recogniser(Protocol):
    """Turns sounds into words, each as if it were alone."""

    name: str  # with its version: stands wherever its figures stand
    identity: str  # the same for the same recogniser under the same settings, wherever its files lie

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        """The words of each sound; "" where nothing is heard. Raises InputError for a sound that it cannot take."""


@dataclass(frozen=True)
class Heard:
    """What a recogniser heard in one sound."""

    text: str
    confidence: float  # mean natural logarithm of the probabilities of what it wrote


@runtime_checkable
class ConfidentRecogniser(Protocol):
    """A recogniser that also says how sure it is."""

    name: str
    identity: str

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]: ...

    def hear(self, waveforms: Sequence[Waveform]) -> list[Heard]: ...


class RememberingRecogniser:
    """Hears every sound once: what several models are asked and what they must match is the same for all."""

    def __init__(self, recogniser: Recogniser) -> None:
        self.name, self.identity = recogniser.name, recogniser.identity
        self._recogniser = recogniser
        self._heard: dict[tuple[int, bytes], str] = {}

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        keys = [_content(waveform) for waveform in waveforms]
        new = {key: waveform for key, waveform in zip(keys, waveforms, strict=True) if key not in self._heard}
        self._heard.update(zip(new, self._recogniser(list(new.values())), strict=True))
        return [self._heard[key] for key in keys]


def _content(waveform: Waveform) -> tuple[int, bytes]:
    samples = waveform.samples.detach().float().cpu().numpy()
    return waveform.sample_rate, hashlib.sha256(samples.tobytes()).digest()


def is_audible(waveform: Waveform) -> bool:
    """Whether there is anything to hear; recognisers that are asked all the same invent words."""
    return waveform.seconds >= SHORTEST and float(waveform.samples.abs().max()) >= SILENCE


def plain_samples(waveform: Waveform, sample_rate: int) -> Tensor:
    """(T,) float32 on the CPU at `sample_rate` Hz."""
    return resample(waveform.samples.detach().float().cpu(), waveform.sample_rate, sample_rate)


def where_audible(
    waveforms: Sequence[Waveform], hear: Callable[[list[Waveform]], list[Result]], silence: Result, batch: int
) -> list[Result]:
    """`hear` on the sounds that have any, `batch` at a time; `silence` for the others."""
    results = [silence] * len(waveforms)
    places = [place for place, waveform in enumerate(waveforms) if is_audible(waveform)]
    for start in range(0, len(places), batch):
        chosen = places[start : start + batch]
        for place, result in zip(chosen, hear([waveforms[place] for place in chosen]), strict=True):
            results[place] = result
    return results
