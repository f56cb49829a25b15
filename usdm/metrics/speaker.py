"""How alike two recordings' speakers sound to an encoder that has nothing to do with the model."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from usdm.audio import resample
from usdm.types import InputError, Waveform


class SpeakerEncoder:
    """Resemblyzer's d-vectors (arXiv 1710.10467; package resemblyzer, whose weights come with it).

    Raises InputError where the package cannot be imported.
    """

    sample_rate = 16_000  # Hz

    def __init__(self) -> None:
        try:
            from resemblyzer import VoiceEncoder, preprocess_wav
        except ImportError as error:
            raise InputError(
                f"speaker similarity needs the package resemblyzer ({error}): pip install 'usdm[speaker]'"
            ) from error
        self.name = f"resemblyzer {version('resemblyzer')}"
        self._encoder = VoiceEncoder(device="cpu", verbose=False)
        self._preprocess = preprocess_wav

    def embed(self, waveform: Waveform) -> np.ndarray:
        """(256,) of length 1; silence between words is shortened first. Raises InputError for sound without voice."""
        samples = resample(waveform.samples.detach().float().cpu(), waveform.sample_rate, self.sample_rate)
        voiced = self._preprocess(samples.numpy()) if samples.any() else samples.numpy()[:0]
        if not len(voiced):
            raise InputError(f"no voice in {waveform.seconds:.2f} s of sound: a speaker cannot be told from it")
        vector: np.ndarray = self._encoder.embed_utterance(voiced)
        return vector

    def similarity(self, a: Waveform, b: Waveform) -> float:
        """Cosine of both speakers' embeddings: 1 for the same; different speakers are often at 0.5 to 0.7."""
        return float(self.embed(a) @ self.embed(b))
