"""A recogniser that has nothing to do with the model, to judge how intelligible sound is."""

from __future__ import annotations

from importlib.metadata import version
from typing import Protocol

import torch
from pocketsphinx import Decoder

from usdm.audio import resample
from usdm.types import Waveform

PCM16_FULL_SCALE = 32767
SHORTEST = 0.05  # seconds; in less there is no word, and the decoder complains


class Recogniser(Protocol):
    """Turns sound into words. `name` says which one, with its version, wherever its figures stand."""

    name: str

    def __call__(self, waveform: Waveform) -> str: ...


class PocketSphinxRecogniser:
    """PocketSphinx with the English model that its package brings (package pocketsphinx; no download).

    The result depends on the sound alone, not on what was heard before: PocketSphinx adapts its cepstral mean
    from utterance to utterance, so the front end is set up anew for each one, and hears it once without
    searching to find the utterance's own mean.
    """

    sample_rate = 16_000  # Hz

    def __init__(self) -> None:
        self.name = f"pocketsphinx {version('pocketsphinx')} en-us"
        self._decoder = Decoder(samprate=float(self.sample_rate), loglevel="FATAL")

    def __call__(self, waveform: Waveform) -> str:
        """The words heard, lower case; "" where nothing is."""
        if waveform.seconds < SHORTEST:
            return ""
        samples = resample(waveform.samples.detach().float().cpu(), waveform.sample_rate, self.sample_rate)
        sound = (samples.clamp(-1, 1) * PCM16_FULL_SCALE).round().to(torch.int16).numpy().tobytes()
        self._decoder.reinit_feat()
        self._hear(sound, no_search=True)
        self._hear(sound, no_search=False)
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis is not None else ""

    def _hear(self, sound: bytes, no_search: bool) -> None:
        self._decoder.start_utt()
        self._decoder.process_raw(sound, no_search=no_search, full_utt=True)
        self._decoder.end_utt()
