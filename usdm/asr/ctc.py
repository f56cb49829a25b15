"""Any CTC model of the hub (Wav2Vec2, HuBERT, WavLM, ...), by the best path, without a language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

from usdm.asr.hub import digest_of, place, read_pretrained, readable_name
from usdm.asr.recogniser import Heard, plain_samples, where_audible
from usdm.types import Waveform


class CtcRecogniser:
    """A CTC model with its own tokenizer, in float32.

    Args:
        name: on the hub, or a folder.
        revision: commit, branch or tag on the hub.
        device: None is the GPU if there is one.
        batch: sounds at once. A model that was trained without attention mask hears them one by one all the same:
            beside longer ones it would hear something else.

    Raises:
        InputError: it cannot be had or read, or has no CTC head.
    """

    def __init__(self, name: str, revision: str | None = None, device: str | None = None, batch: int = 8) -> None:
        self._extractor = read_pretrained(AutoFeatureExtractor, name, revision)
        self._tokenizer = read_pretrained(AutoTokenizer, name, revision)
        self._model = (
            read_pretrained(AutoModelForCTC, name, revision, dtype=torch.float32, use_safetensors=True)
            .to(place(device))
            .eval()
        )
        self._batch = batch if self._extractor.return_attention_mask else 1
        self.sample_rate: int = self._extractor.sampling_rate  # Hz
        digest = digest_of(name, revision)
        self.name, self.identity = readable_name(name, digest), f"ctc {digest}"

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        return [heard.text for heard in self.hear(waveforms)]

    def hear(self, waveforms: Sequence[Waveform]) -> list[Heard]:
        return where_audible(waveforms, self._hear, Heard("", 0.0), self._batch)

    @torch.inference_mode()
    def _hear(self, waveforms: list[Waveform]) -> list[Heard]:
        samples = [plain_samples(waveform, self.sample_rate).numpy() for waveform in waveforms]
        inputs = self._extractor(samples, sampling_rate=self.sample_rate, padding=True, return_tensors="pt")
        best, ids = self._model(**inputs.to(self._model.device)).logits.log_softmax(dim=-1).max(dim=-1)  # (B, frames)
        lengths = self._model._get_feat_extract_output_lengths(torch.tensor([len(each) for each in samples])).tolist()
        rows = [row[:length] for row, length in zip(ids.cpu(), lengths, strict=True)]
        sure = [float(row[:length].mean()) for row, length in zip(best.cpu(), lengths, strict=True)]
        return [Heard(self._tokenizer.decode(row).strip(), each) for row, each in zip(rows, sure, strict=True)]
