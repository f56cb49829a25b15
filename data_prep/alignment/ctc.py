"""The CTC aligner: sound through a model, text into its symbols, one search for each utterance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from data_prep.alignment.aligned import Aligned, Unaligned
from data_prep.alignment.forced import WordSpan, align_words
from data_prep.alignment.spelling import written_words
from data_prep.alignment.windows import CtcModel, emissions
from usdm.audio import check_speech
from usdm.data.speech_corpus import Utterance
from usdm.types import AlignedWord, InputError


class CtcAligner:
    """An `Aligner` over any `CtcModel`.

    Args:
        batch_seconds: sound that goes through the model at once; utterances of like length go together.
    """

    def __init__(self, model: CtcModel, *, batch_seconds: float = 60.0) -> None:
        self.model, self.batch_seconds = model, batch_seconds

    def __call__(self, utterances: Sequence[Utterance]) -> list[Aligned | Unaligned]:
        found: dict[str, Aligned | Unaligned] = {}
        for batch in self._batches(utterances):
            sounds = {}
            for utterance in batch:
                try:
                    sound = utterance.read(self.model.sample_rate)
                    check_speech(sound)
                    sounds[utterance.id] = sound.samples
                except InputError as error:
                    found[utterance.id] = Unaligned(str(error))
            rows = emissions(self.model, list(sounds.values()), self.batch_seconds)
            log_probs = dict(zip(sounds, rows, strict=True))
            for utterance in batch:
                if utterance.id in log_probs:
                    found[utterance.id] = self._align(utterance, log_probs[utterance.id])
        return [found[utterance.id] for utterance in utterances]

    def _batches(self, utterances: Sequence[Utterance]) -> Iterator[list[Utterance]]:
        batch: list[Utterance] = []
        seconds = 0.0
        for utterance in sorted(utterances, key=lambda utterance: utterance.duration):
            if batch and seconds + utterance.duration > self.batch_seconds:
                yield batch
                batch, seconds = [], 0.0
            batch.append(utterance)
            seconds += utterance.duration
        if batch:
            yield batch

    def _align(self, utterance: Utterance, log_probs: Tensor) -> Aligned | Unaligned:
        words = written_words(utterance.text or "")
        if not words:
            return Unaligned("no word in the text")
        spellings = self.model.spell(words)
        try:
            spans = align_words(log_probs, spellings, blank=self.model.blank, delimiter=self.model.delimiter)
        except InputError as error:
            return Unaligned(str(error))
        return Aligned(
            words=tuple(self._timed(word, span) for word, span in zip(words, spans, strict=True)),
            confidence=tuple(span.confidence for span in spans),
            phones=tuple(
                AlignedWord(self.model.name(symbol.token), self._seconds(symbol.start), self._seconds(symbol.end))
                for span in spans
                for symbol in span.symbols
                if self.model.name(symbol.token)
            ),
            unknown=tuple(spelling.unknown for spelling in spellings if spelling.unknown),
            interpolated=tuple(word for word, spelling in zip(words, spellings, strict=True) if not spelling.ids),
        )

    def _timed(self, word: str, span: WordSpan) -> AlignedWord:
        return AlignedWord(word, self._seconds(span.start), self._seconds(span.end))

    def _seconds(self, frame: int) -> float:
        return frame * self.model.frame_samples / self.model.sample_rate
