"""Training of a small neural codec (DAC, arXiv 2306.06546) by spectral distances: acoustic units at toy size.

The published codecs come from the hub (`usdm convert_codec`). This one is for experiments that shall run anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from usdm.audio import write_audio
from usdm.checkpoint import make_readable
from usdm.training.corpus_audio import CorpusAudio, utterances_of
from usdm.training.loop import training_device
from usdm.training.task import TrainingTask
from usdm.training.vocoder import HEARD_UTTERANCES, RESOLUTIONS, SpectralDistance, spectral_distance

if TYPE_CHECKING:
    from transformers import DacConfig


class CodecTask(TrainingTask):
    """Task of `usdm.training.loop.train`: random crops of speech corpora.

    Args:
        corpora: speech corpus folders.
        config: the codec's size, codebooks and rates.
        roles: take utterances of these only.
        crop_frames: length of a crop.
        validation_utterances: of split "dev".
        codebook_weight: of the distance between vectors and codes, as the codec's configuration weighs its two parts.

    Raises:
        InputError: a corpus cannot be read, or has no utterance of these roles to train on or to validate on.
    """

    def __init__(
        self,
        corpora: Sequence[str | Path],
        config: DacConfig,
        *,
        roles: Sequence[str] | None = None,
        batch_size: int = 8,
        crop_frames: int = 40,
        validation_utterances: int = 8,
        codebook_weight: float = 1.0,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        from transformers import DacModel

        torch.manual_seed(seed)
        self.device = training_device(device)
        self.codec = DacModel(config).to(self.device)
        self.batch_size, self.seed, self.codebook_weight = batch_size, seed, codebook_weight
        self.crop_samples = crop_frames * config.hop_length
        self.distances = nn.ModuleList(
            SpectralDistance(n_fft, bands, config.sampling_rate) for n_fft, bands in RESOLUTIONS
        ).to(self.device)
        self.train_audio = CorpusAudio(utterances_of(corpora, "train", roles), config.sampling_rate)
        self.dev_audio = CorpusAudio(utterances_of(corpora, "dev", roles), config.sampling_rate)
        self.validation_utterances = min(validation_utterances, len(self.dev_audio))

    def modules(self) -> dict[str, nn.Module]:
        return {"codec": self.codec}

    def batch(self, step: int) -> Tensor:
        """(B, T) random crops, silence after utterances that are too short."""
        random = np.random.default_rng([self.seed, step])
        return self.train_audio.crops(self.batch_size, self.crop_samples, random).to(self.device)

    def losses(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        coded = self.codec(batch[:, None])
        spectral = spectral_distance(self.distances, coded.audio_values.view(len(batch), -1), batch)
        codebooks = coded.loss.mean()
        return {"loss": spectral["loss"] + self.codebook_weight * codebooks, **_rest(spectral), "codebooks": codebooks}

    @torch.inference_mode()
    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Spectral distance on dev utterances; the first ones as sound."""
        distances = []
        for index in range(self.validation_utterances):
            sound = self.dev_audio.samples(index)
            whole = sound[: len(sound) // self.codec.config.hop_length * self.codec.config.hop_length].to(self.device)
            made = self.codec(whole[None, None]).audio_values.view(1, -1)
            length = min(made.shape[1], len(whole))
            distances.append(spectral_distance(self.distances, made[:, :length], whole[None, :length])["mel"].item())
            if index < HEARD_UTTERANCES:
                rate = self.codec.config.sampling_rate
                write_audio(folder / f"{step:07d}_{index}.wav", made[0].clamp(-1, 1).cpu(), rate)
        return {"mel_distance": float(np.mean(distances))}

    def save(self, folder: Path) -> None:
        """The finished codec in transformers' layout; `usdm convert_codec` makes a unit tokenizer of it."""
        self.codec.save_pretrained(folder)
        make_readable(folder)


def _rest(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part for name, part in parts.items() if name != "loss"}
