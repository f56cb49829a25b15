"""A codec's own decoder: its units back to the sound that they came from, timbre and all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from usdm.types import ReferenceVoice
from usdm.unit_to_speech.protocol import DecoderSampling, Synthesis, UnitToSpeech, refuse_voices
from usdm.units.codec import CodecTokenizer


class CodecToSpeech(UnitToSpeech):
    """Made of the codec that tokenizes. Its units hold the voice, so there is none to choose."""

    def __init__(self, tokenizer: CodecTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    @property
    def num_units(self) -> int:
        return self.tokenizer.num_units

    @property
    def unit_rate(self) -> float:
        return self.tokenizer.unit_rate

    @property
    def sample_rate(self) -> int:
        return self.tokenizer.sample_rate

    def forward(
        self,
        units: Sequence[Tensor],
        voices: Sequence[ReferenceVoice | None],
        seeds: Sequence[int],
        sampling: DecoderSampling,
    ) -> Synthesis:
        refuse_voices(self, voices)
        start = time.perf_counter()
        for row in units:
            self.check_units(row)
        sounds = [self.tokenizer.decode(row) for row in units]
        return Synthesis(sounds, {"decode": time.perf_counter() - start})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CodecToSpeech:
        """The tokenizer's folder."""
        return cls(CodecTokenizer.from_pretrained(folder))
