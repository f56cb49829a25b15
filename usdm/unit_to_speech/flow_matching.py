"""The paper's way from units to sound: flow matching to log-mels, and a vocoder (USDM section 3.4)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from usdm.audio import MelSpectrogram, resample
from usdm.decoder import StreamingDecoder, StreamingSettings, UnitDecoder
from usdm.types import InputError, ReferenceVoice, Waveform
from usdm.unit_to_speech.protocol import DecoderSampling, Synthesis, UnitToSpeech
from usdm.vocoder import StreamingVocoder, Vocoder, load_vocoder, vocode_batch


class FlowMatchingToSpeech(UnitToSpeech):
    """A unit decoder and a vocoder. Raises InputError if they are not made for the same mels."""

    def __init__(self, decoder: UnitDecoder, vocoder: Vocoder) -> None:
        super().__init__()
        mine, theirs = asdict(decoder.mel), asdict(vocoder.mel)
        for setting in mine:
            if mine[setting] != theirs[setting]:
                raise InputError(
                    f"the parts disagree on the mel setting {setting}: decoder has {mine[setting]}, vocoder has "
                    f"{theirs[setting]}; take parts that were trained together"
                )
        self.decoder = decoder
        self.vocoder = vocoder

    @property
    def num_units(self) -> int:
        return self.decoder.num_units

    @property
    def unit_rate(self) -> float:
        return self.decoder.unit_rate

    @property
    def sample_rate(self) -> int:
        return self.vocoder.sample_rate

    @cached_property
    def mel(self) -> MelSpectrogram:
        """Sound to the log-mels that the decoder makes."""
        return MelSpectrogram(self.decoder.mel)

    @torch.inference_mode()
    def forward(
        self,
        units: Sequence[Tensor],
        voices: Sequence[ReferenceVoice | None],
        seeds: Sequence[int],
        sampling: DecoderSampling,
    ) -> Synthesis:
        start = time.perf_counter()
        mels = self.decoder.generate_batch(units, references=voices, seeds=seeds, **asdict(sampling))
        decoded = time.perf_counter()
        sounds = [sound.float().cpu() for sound in vocode_batch(self.vocoder, mels)]
        return Synthesis(sounds, {"decode": decoded - start, "vocode": time.perf_counter() - decoded})

    def stream(self, voice: ReferenceVoice | None, seed: int, sampling: DecoderSampling) -> FlowMatchingStream:
        return FlowMatchingStream(self, voice, seed, sampling)

    def voice(self, units: Tensor, recording: Waveform) -> ReferenceVoice:
        samples = resample(recording.samples, recording.sample_rate, self.decoder.mel.sample_rate)
        return ReferenceVoice(units, self.mel(samples[None])[0])

    def check_units(self, units: Tensor) -> None:
        self.decoder.check_units(units)

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        vocoder: str | Path | None = None,
        *,
        dtype: torch.dtype | None = None,
        use_cuda_kernel: bool = False,
    ) -> FlowMatchingToSpeech:
        """A unit decoder's folder, and a vocoder's. `dtype` is the decoder's, `use_cuda_kernel` BigVGAN's.

        Raises InputError for what is missing or damaged, or not made for each other.
        """
        if vocoder is None:
            raise InputError(f"{folder}: this decoder makes mels, which need a vocoder; give its folder or hub name")
        decoder = UnitDecoder.from_pretrained(folder, dtype=dtype)
        return cls(decoder, load_vocoder(vocoder, use_cuda_kernel=use_cuda_kernel))


class FlowMatchingStream:
    """Chunk after chunk, as `StreamingDecoder` and `StreamingVocoder` have them."""

    def __init__(
        self, speaker: FlowMatchingToSpeech, voice: ReferenceVoice | None, seed: int, sampling: DecoderSampling
    ) -> None:
        settings = StreamingSettings.at_rate(speaker.decoder.unit_rate)
        self._decoder = StreamingDecoder(
            speaker.decoder, **asdict(settings), **asdict(sampling), reference=voice, seed=seed
        )
        self._vocoder = StreamingVocoder(speaker.vocoder)
        self.timings: dict[str, float] = {}

    @torch.inference_mode()
    def push(self, units: Tensor) -> Tensor:
        start = time.perf_counter()
        mel = self._decoder.push(units)
        self._spent("decode", start)
        if mel.shape[1] == 0:
            return torch.zeros(0)
        start = time.perf_counter()
        samples = self._vocoder.push(mel, self._decoder.ahead)
        self._spent("vocode", start)
        return samples

    @torch.inference_mode()
    def finish(self) -> Tensor:
        start = time.perf_counter()
        mel = self._decoder.finish()
        self._spent("decode", start)
        start = time.perf_counter()
        samples = torch.cat([self._vocoder.push(mel), self._vocoder.finish()])
        self._spent("vocode", start)
        return samples

    def _spent(self, step: str, start: float) -> None:
        self.timings[step] = self.timings.get(step, 0.0) + time.perf_counter() - start
