"""A spoken dialog model's own ears: the transcribe stage of its chain."""

from __future__ import annotations

from collections.abc import Sequence

from usdm.asr.hub import readable_name
from usdm.asr.recogniser import where_audible
from usdm.audio import resample
from usdm.chain import LoadOptions, SpokenDialogPipeline
from usdm.chain.sound import speech
from usdm.chain.stages import LanguageModelChain, Question
from usdm.lm import ContinuousBatch
from usdm.types import Waveform


class ChainRecogniser:
    """What a model of this project transcribes, under its bundle's settings.

    Args:
        name: an embedded model, or a bundle's folder.
        device: as `LoadOptions` takes it.
        batch: sounds at once.

    Raises:
        InputError: it cannot be read.
    """

    def __init__(self, name: str = "tiny", device: str | None = None, batch: int = 8) -> None:
        self._pipeline = SpokenDialogPipeline.from_pretrained(name, LoadOptions(device=device))
        self._chain = LanguageModelChain(self._pipeline.parts.llm, self._pipeline.parts.template)
        self._batch = batch
        self.name = readable_name(name, self._pipeline.fingerprint)
        self.identity = f"chain {self._pipeline.fingerprint}"

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        """Raises InputError for a sound that is too long for the model."""
        return where_audible(waveforms, self._transcribe, "", self._batch)

    def _transcribe(self, waveforms: list[Waveform]) -> list[str]:
        extractor = self._pipeline.parts.units
        heard = [speech(each.samples, each.sample_rate, self._pipeline.limit) for each in waveforms]
        units = extractor([resample(each.samples, each.sample_rate, extractor.sample_rate) for each in heard])
        sampling = self._pipeline.settings.sampling
        programs = (
            (place, self._chain.transcription(Question(units=own), sampling)) for place, own in enumerate(units)
        )
        texts = [""] * len(units)
        for place, result in ContinuousBatch(self._pipeline.parts.llm, self._batch).run(programs):
            if isinstance(result, Exception):
                raise result
            texts[place] = result
        return texts
