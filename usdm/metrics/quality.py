"""How good a recording sounds to a network that learnt it from listeners."""

from __future__ import annotations

from importlib.metadata import version
from typing import Protocol

from usdm.audio import resample
from usdm.types import InputError, Waveform


class QualityScore(Protocol):
    """An independent judge of sound."""

    name: str

    def __call__(self, waveform: Waveform) -> float: ...


class Dnsmos:
    """DNSMOS P.835, overall quality from 1 to 5 (arXiv 2110.01763; package speechmos, whose weights come with it).

    Raises InputError where the package cannot be imported.
    """

    sample_rate = 16_000  # Hz

    def __init__(self) -> None:
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise InputError(f"DNSMOS needs the package speechmos ({error}): pip install 'usdm[quality]'") from error
        self.name = f"speechmos {version('speechmos')}"
        self._run = dnsmos.run

    def __call__(self, waveform: Waveform) -> float:
        samples = resample(waveform.samples.float().cpu(), waveform.sample_rate, self.sample_rate)
        return float(self._run(samples.numpy().clip(-1, 1), self.sample_rate)["ovrl_mos"])
