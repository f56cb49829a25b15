"""Whisper (arXiv 2212.04356) through transformers: the judge of the paper, and of most of the field."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperProcessor

from usdm.asr.hub import digest_of, place, read_pretrained, readable_name
from usdm.asr.recogniser import Heard, plain_samples, where_audible
from usdm.types import InputError, Waveform
from usdm.units.hub import quiet

LONGEST = 30.0  # seconds that Whisper hears at once
SEARCHED = 5.0  # the last seconds of these, in which a longer sound is cut
PAUSE = 0.1  # seconds whose loudness is compared


class WhisperRecogniser:
    """A Whisper model, greedy, in float32. A sound longer than 30 s is heard in pieces, cut where it is quietest.

    Args:
        name: on the hub, or a folder.
        revision: commit, branch or tag on the hub.
        device: None is the GPU if there is one.
        batch: sounds at once.
        language: of a multilingual model.

    Raises:
        InputError: it cannot be had or read, is no Whisper model, or knows only English and another is wanted.
    """

    sample_rate = 16_000  # Hz

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        device: str | None = None,
        batch: int = 8,
        language: str = "en",
    ) -> None:
        config = read_pretrained(AutoConfig, name, revision)
        if config.model_type != "whisper":
            raise InputError(
                f"asr.name={name} is of model_type '{config.model_type}': give a Whisper model, or choose asr=ctc."
            )
        self._processor = read_pretrained(WhisperProcessor, name, revision)
        model = read_pretrained(
            WhisperForConditionalGeneration, name, revision, dtype=torch.float32, use_safetensors=True
        )
        self._model = model.to(place(device)).eval()
        several = self._model.generation_config.is_multilingual
        if not several and language != "en":
            raise InputError(f"asr.language={language}: {name} knows English alone; give a multilingual Whisper model")
        self._options = {"language": language, "task": "transcribe"} if several else {}
        self._batch = batch
        digest = digest_of(name, revision)
        self.name = readable_name(name, digest)
        self.identity = f"whisper {digest} {language if several else 'en'}"

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        return [heard.text for heard in self.hear(waveforms)]

    def hear(self, waveforms: Sequence[Waveform]) -> list[Heard]:
        return where_audible(waveforms, self._hear, Heard("", 0.0), self._batch)

    def _hear(self, waveforms: list[Waveform]) -> list[Heard]:
        pieces = [self._pieces(plain_samples(waveform, self.sample_rate)) for waveform in waveforms]
        heard = iter([one for group in self._groups(pieces) for one in self._generate(group)])
        return [_joined([next(heard) for _ in own]) for own in pieces]

    def _groups(self, pieces: list[list[Tensor]]) -> list[list[Tensor]]:
        every = [piece for own in pieces for piece in own]
        return [every[start : start + self._batch] for start in range(0, len(every), self._batch)]

    def _pieces(self, samples: Tensor) -> list[Tensor]:
        """(T,) in pieces that Whisper hears at once."""
        longest, searched, pause = (round(seconds * self.sample_rate) for seconds in (LONGEST, SEARCHED, PAUSE))
        pieces = []
        while len(samples) > longest:
            loudness = samples[longest - searched : longest].square().unfold(0, pause, pause // 2).mean(dim=-1)
            end = longest - searched + int(loudness.argmin()) * (pause // 2) + pause // 2
            pieces.append(samples[:end])
            samples = samples[end:]
        return [*pieces, samples]

    @torch.inference_mode()
    def _generate(self, pieces: list[Tensor]) -> list[Heard]:
        inputs = self._processor(
            [piece.numpy() for piece in pieces], sampling_rate=self.sample_rate, return_tensors="pt"
        )
        features = inputs.input_features.to(self._model.device)
        with quiet():  # transformers warns of what its Whisper passes to itself
            output = self._model.generate(
                features, do_sample=False, return_dict_in_generate=True, output_scores=True, **self._options
            )
        sure = self._model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        written = output.sequences[:, output.sequences.shape[1] - sure.shape[1] :] != self._end  # (B, tokens)
        written |= torch.cumsum(~written, dim=1) == 1  # the end that it chose counts, its repetitions do not
        texts = self._processor.batch_decode(output.sequences, skip_special_tokens=True)
        means = [float(row[own].mean()) for row, own in zip(sure, written, strict=True)]
        return [Heard(text.strip(), mean) for text, mean in zip(texts, means, strict=True)]

    @property
    def _end(self) -> int:
        end = self._model.generation_config.eos_token_id
        return int(end[0] if isinstance(end, list) else end)


def _joined(pieces: list[Heard]) -> Heard:
    text = " ".join(piece.text for piece in pieces if piece.text)
    return Heard(text, sum(piece.confidence for piece in pieces) / len(pieces))
