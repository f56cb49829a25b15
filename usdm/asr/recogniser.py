"""Recognisers that have nothing to do with the model, to judge how intelligible sound is."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from pocketsphinx import Decoder

from usdm.audio import resample
from usdm.runs import content_digest
from usdm.types import InputError, Waveform
from usdm.units.hub import UNREADABLE, first_line, hub_config, quiet

PCM16_FULL_SCALE = 32767
SILENCE = 1e-3  # peak, -60 dBFS; in digital silence PocketSphinx hears a word
_ONE_WORD = "one word"  # name of a search
SHORTEST = 0.05  # seconds; in less there is no word, and the decoder complains


class Recogniser(Protocol):
    """Turns sound into words. `name` says which one, with its version, wherever its figures stand."""

    name: str

    def __call__(self, waveform: Waveform) -> str: ...


class PocketSphinxRecogniser:
    """PocketSphinx with the English model that its package brings (package pocketsphinx; no download).

    The result depends on the sound alone, not on what was heard before. PocketSphinx subtracts a cepstral mean
    that it learns from utterance to utterance; here the front end starts anew for each one and hears it twice,
    first with a search for a single word, which costs next to nothing and leaves the utterance's own mean.
    """

    sample_rate = 16_000  # Hz

    def __init__(self) -> None:
        self.name = f"pocketsphinx {version('pocketsphinx')} en-us"
        self._decoder = Decoder(samprate=self.sample_rate, loglevel="FATAL")
        self._full_search = self._decoder.current_search()
        self._decoder.add_keyphrase(_ONE_WORD, "hello")

    def __call__(self, waveform: Waveform) -> str:
        """The words heard, lower case; "" where nothing is."""
        if waveform.seconds < SHORTEST or waveform.samples.abs().max() < SILENCE:
            return ""
        samples = resample(waveform.samples.detach().float().cpu(), waveform.sample_rate, self.sample_rate)
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


class WhisperRecogniser:
    """A Whisper model (arXiv 2212.04356), greedy and in English: of a sound longer than 30 s the first 30 s.

    Args:
        model: name on the hub, or a folder.

    Raises:
        InputError: it cannot be had or read, or is no Whisper model.
    """

    sample_rate = 16_000  # Hz

    def __init__(self, model: str) -> None:
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        if (kind := hub_config(model).model_type) != "whisper":
            raise InputError(f"recogniser={model} is of model_type '{kind}': give a Whisper model, or pocketsphinx.")
        try:
            with quiet():
                self._processor = WhisperProcessor.from_pretrained(model)
                self._model: Any = WhisperForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
        except UNREADABLE as error:
            raise InputError(f"recogniser={model} cannot be read ({first_line(error)}).") from error
        several = self._model.generation_config.is_multilingual
        self._options = {"language": "en", "task": "transcribe"} if several else {}
        self.name = f"{Path(model).name} {content_digest(model)[:8]}"

    @torch.inference_mode()
    def __call__(self, waveform: Waveform) -> str:
        """The words heard; "" where nothing is."""
        if waveform.seconds < SHORTEST or waveform.samples.abs().max() < SILENCE:
            return ""
        samples = resample(waveform.samples.detach().float().cpu(), waveform.sample_rate, self.sample_rate)
        features = self._processor(samples.numpy(), sampling_rate=self.sample_rate, return_tensors="pt").input_features
        with quiet():  # transformers warns of what its Whisper passes to itself
            ids = self._model.generate(features, do_sample=False, **self._options)
        text: str = self._processor.batch_decode(ids, skip_special_tokens=True)[0]
        return text.strip()


class RememberingRecogniser:
    """Hears every sound once: what several models are asked and what they must match is the same for all."""

    def __init__(self, recogniser: Recogniser) -> None:
        self.name = recogniser.name
        self._recogniser = recogniser
        self._heard: dict[tuple[int, bytes], str] = {}

    def __call__(self, waveform: Waveform) -> str:
        samples = waveform.samples.detach().float().cpu().numpy()
        sound = waveform.sample_rate, hashlib.sha256(samples.tobytes()).digest()
        if sound not in self._heard:
            self._heard[sound] = self._recogniser(waveform)
        return self._heard[sound]
