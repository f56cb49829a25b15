"""Training of the light vocoder by spectral distances alone.

The loss is a sum over several STFT resolutions (Parallel WaveGAN, arXiv 1910.11480): spectral convergence and
log-magnitude distance on the linear bins, and L1 on log-mel bands, which weighs what the ear resolves.
No single window can be satisfied by wrong phases in all of them, which is how phase is learnt without a
discriminator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from usdm.audio import MelSpectrogram, write_audio
from usdm.training.corpus_audio import CorpusAudio, utterances_of
from usdm.training.loop import training_device
from usdm.training.pictures import save_mel_picture
from usdm.training.task import TrainingTask
from usdm.types import InputError
from usdm.vocoder import VocosSettings, VocosVocoder

RESOLUTIONS = ((512, 40), (1024, 80), (2048, 160))  # STFT window in samples, mel bands
MAGNITUDE_FLOOR = 1e-3  # of a linear STFT bin: about the rounding noise of 16-bit sound
MEL_FLOOR = 1e-5  # of a mel band, whose filters have unit area
HEARD_UTTERANCES = 2  # of the validation set, written as WAV


class SpectralDistance(nn.Module):
    """Distance of two waveforms at one STFT resolution (hop a quarter of the window)."""

    window: Tensor  # (n_fft,)
    filters: Tensor  # (num_mels, bins)

    def __init__(self, n_fft: int, num_mels: int, sample_rate: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        filters = melscale_fbanks(
            n_fft // 2 + 1, 0.0, sample_rate / 2, num_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def _magnitude(self, samples: Tensor) -> Tensor:
        """(B, T) -> (B, bins, frames)"""
        spectrum = torch.stft(samples, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()

    def forward(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        """(B, T), (B, T) -> scalars "convergence", "magnitude" and "mel"."""
        with torch.no_grad():
            wanted = self._magnitude(target)
        given = self._magnitude(predicted)
        return {
            "convergence": (given - wanted).norm() / wanted.norm(),
            "magnitude": _log_distance(given, wanted, MAGNITUDE_FLOOR),
            "mel": _log_distance(self.filters @ given, self.filters @ wanted, MEL_FLOOR),
        }


def spectral_distance(distances: Iterable[nn.Module], predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    """(B, T), (B, T) -> "loss" and its parts, over all resolutions.

    Equal weights: the three are of one magnitude throughout training.
    """
    parts = [distance(predicted, target) for distance in distances]
    mean = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
    return {"loss": torch.stack(list(mean.values())).sum(), **mean}


def _log_distance(given: Tensor, wanted: Tensor, floor: float) -> Tensor:
    return (given.clamp_min(floor).log() - wanted.clamp_min(floor).log()).abs().mean()


class VocoderTask(TrainingTask):
    """Task of `usdm.training.loop.train`: random crops of speech corpora.

    Args:
        corpora: speech corpus folders.
        settings: the vocoder's size and mel.
        roles: take utterances of these only.
        crop_frames: length of a crop in mel frames (64 are 0.74 s).
        validation_utterances: of split "dev".
        initial: folder of a vocoder to start from; None: random weights.

    Raises:
        InputError: a corpus cannot be read, or has no utterance of these roles to train on or to validate on.
    """

    def __init__(
        self,
        corpora: Sequence[str | Path],
        settings: VocosSettings,
        *,
        roles: Sequence[str] | None = None,
        batch_size: int = 8,
        crop_frames: int = 64,
        validation_utterances: int = 8,
        init_from: str | Path | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self.device = device = training_device(device)
        self.vocoder = vocoder = _vocoder(settings, init_from).to(device)
        self.batch_size = batch_size
        self.crop_samples = crop_frames * vocoder.mel.hop_length
        self.seed = seed
        self.mel = MelSpectrogram(vocoder.mel).to(device)
        self.distances = nn.ModuleList(
            SpectralDistance(n_fft, bands, vocoder.sample_rate) for n_fft, bands in RESOLUTIONS
        ).to(device)
        self.train_audio = CorpusAudio(utterances_of(corpora, "train", roles), vocoder.sample_rate)
        self.dev_audio = CorpusAudio(utterances_of(corpora, "dev", roles), vocoder.sample_rate)
        self.validation_utterances = min(validation_utterances, len(self.dev_audio))

    def modules(self) -> dict[str, nn.Module]:
        return {"vocoder": self.vocoder}

    def batch(self, step: int) -> Tensor:
        """(B, T) random crops, silence after utterances that are too short."""
        random = np.random.default_rng([self.seed, step])
        return self.train_audio.crops(self.batch_size, self.crop_samples, random).to(self.device)

    def losses(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return self.distance(self.vocoder(self.mel(batch)), batch)

    def distance(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        return spectral_distance(self.distances, predicted, target)

    @torch.inference_mode()
    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Mean L1 log-mel distance on the first dev utterances; the first ones as sound and picture."""
        distances = []
        for index in range(self.validation_utterances):
            target = self.mel(self.dev_audio.samples(index)[None].to(self.device))  # (1, mels, M)
            sound = self.vocoder(target)
            heard = self.mel(sound)
            distances.append((heard - target).abs().mean().item())
            if index < HEARD_UTTERANCES:
                name = f"{step:07d}_{index}"
                write_audio(folder / f"{name}.wav", sound[0], self.vocoder.sample_rate)
                pair = {"recording": target[0], "vocoder": heard[0]}
                save_mel_picture(folder / f"{name}.png", pair, self.vocoder.mel)
        return {"mel_distance": float(np.mean(distances))}

    def save(self, folder: Path) -> None:
        """The finished vocoder, stored in half precision."""
        self.vocoder.save_pretrained(folder, dtype=torch.float16)


def _vocoder(settings: VocosSettings, init_from: str | Path | None) -> VocosVocoder:
    if init_from is None:
        return VocosVocoder(settings)
    vocoder = VocosVocoder.from_pretrained(init_from)
    if vocoder.settings != settings:
        raise InputError(
            f"init_from={init_from} is a vocoder of another kind: {vocoder.settings}, wanted is {settings}"
        )
    return vocoder.train()
