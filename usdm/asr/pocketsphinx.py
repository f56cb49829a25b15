"""PocketSphinx: a small recogniser of English that needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import torch
from pocketsphinx import Decoder

from usdm.asr.recogniser import plain_samples, where_audible
from usdm.types import Waveform

PCM16_FULL_SCALE = 32767
_ONE_WORD = "one word"  # name of a search


class PocketSphinxRecogniser:
    """PocketSphinx with the English model that its package brings (package pocketsphinx; no download).

    The result depends on the sound alone, not on what was heard before. PocketSphinx subtracts a cepstral mean
    that it learns from utterance to utterance; here the front end starts anew for each one and hears it twice,
    first with a search for a single word, which costs next to nothing and leaves the utterance's own mean.
    """

    sample_rate = 16_000  # Hz

    def __init__(self) -> None:
        self.name = self.identity = f"pocketsphinx {version('pocketsphinx')} en-us"
        self._decoder = Decoder(samprate=self.sample_rate, loglevel="FATAL")
        self._full_search = self._decoder.current_search()
        self._decoder.add_keyphrase(_ONE_WORD, "hello")

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        """The words heard, lower case; "" where nothing is."""
        return where_audible(waveforms, lambda each: [self._words(waveform) for waveform in each], "", batch=1)

    def _words(self, waveform: Waveform) -> str:
        samples = plain_samples(waveform, self.sample_rate)
        sound = (samples.clamp(-1, 1) * PCM16_FULL_SCALE).round().to(torch.int16).numpy().tobytes()
        self._decoder.reinit_feat()
        self._hear(sound, _ONE_WORD)
        return self._hear(sound, self._full_search)

    def _hear(self, sound: bytes, search: str) -> str:
        self._decoder.activate_search(search)
        self._decoder.start_utt()
        self._decoder.process_raw(sound, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis is not None else ""
