"""Adversarial training of a unit HiFi-GAN (arXiv 2104.00355): spectral distances, discriminators, and durations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from usdm.audio import write_audio
from usdm.data.unit_corpus import UnitCorpus
from usdm.training.adversarial_vocoder import generator_losses
from usdm.training.corpus_audio import CorpusAudio
from usdm.training.corpus_units import evenly_spread, units_by_id, utterances_with_units
from usdm.training.discriminators import Discriminators, discriminator_loss
from usdm.training.loop import training_device
from usdm.training.task import AdversarialTask
from usdm.training.vocoder import HEARD_UTTERANCES, RESOLUTIONS, SpectralDistance, spectral_distance
from usdm.types import InputError
from usdm.unit_to_speech.hifigan import UnitHifiGan, UnitHifiGanConfig


@dataclass(frozen=True)
class UnitSound:
    """Crops of utterances that begin with a unit."""

    units: Tensor  # (B, U) int64
    sound: Tensor  # (B, U * samples of a unit)


class UnitHifiGanTask(AdversarialTask):
    """Adversarial task of `usdm.training.loop.train`: random crops of speech corpora and their units.

    Args:
        corpora: speech corpus folders.
        units: unit corpus, a Parquet file or a folder of them; utterances without units are left out.
        config: the size, K and rates.
        roles: take utterances of these only.
        speakers: take utterances of these only, since it learns one voice; None: everybody's, of which it learns the
            mean.
        crop_units: length of a crop.
        validation_utterances: of split "dev".
        spectral_weight, adversarial_weight, feature_weight, duration_weight: of the parts of the loss.
        period_width, resolution_width: channels of the discriminators' first layers.
        initial: folder of a unit HiFi-GAN to start from; None: random weights.

    Raises:
        InputError: a corpus cannot be read, its units are not of `config`'s kind, or nothing is left.
    """

    def __init__(
        self,
        corpora: Sequence[str | Path],
        units: str | Path,
        config: UnitHifiGanConfig,
        *,
        roles: Sequence[str] | None = None,
        speakers: Sequence[str] | None = None,
        batch_size: int = 8,
        crop_units: int = 20,
        validation_utterances: int = 8,
        spectral_weight: float = 1.0,
        adversarial_weight: float = 0.1,
        feature_weight: float = 1.0,
        duration_weight: float = 0.1,
        period_width: int = 24,
        resolution_width: int = 16,
        init_from: str | Path | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self.device = training_device(device)
        self.model = _model(config, init_from).to(self.device)
        self.batch_size, self.crop_units, self.seed = batch_size, crop_units, seed
        self.spectral_weight, self.adversarial_weight = spectral_weight, adversarial_weight
        self.feature_weight, self.duration_weight = feature_weight, duration_weight
        self.discriminators = Discriminators(period_width, resolution_width).to(self.device)
        self.distances = nn.ModuleList(
            SpectralDistance(n_fft, bands, config.sample_rate) for n_fft, bands in RESOLUTIONS
        ).to(self.device)
        corpus = UnitCorpus(units)
        self.unit_source = corpus.source
        self.units = units_by_id(corpus, config.num_units, config.unit_rate)
        known = {
            split: utterances_with_units(corpora, split, roles, self.units, speakers)[0] for split in ("train", "dev")
        }
        self.train_audio = CorpusAudio(known["train"], config.sample_rate)
        self.dev_audio = CorpusAudio(evenly_spread(known["dev"], validation_utterances), config.sample_rate)

    def modules(self) -> dict[str, nn.Module]:
        return {"unit_hifigan": self.model}

    def critic_modules(self) -> dict[str, nn.Module]:
        return {"discriminators": self.discriminators}

    def batch(self, step: int) -> UnitSound:
        """Random crops; what is shorter is filled with its last unit and silence."""
        random = np.random.default_rng([self.seed, step])
        samples_per_unit = self.model.samples_per_unit
        units = torch.zeros(self.batch_size, self.crop_units, dtype=torch.int64)
        sound = torch.zeros(self.batch_size, self.crop_units * samples_per_unit)
        for row, index in enumerate(random.choice(len(self.train_audio), self.batch_size, p=self.train_audio.shares)):
            own = self.units[self.train_audio.utterances[int(index)].id]
            start = int(random.integers(max(len(own) - self.crop_units, 0) + 1))
            crop = own[start : start + self.crop_units]
            units[row] = crop[-1]
            units[row, : len(crop)] = crop
            samples = self.train_audio.samples(int(index))[start * samples_per_unit :][: len(crop) * samples_per_unit]
            sound[row, : len(samples)] = samples
        return UnitSound(units.to(self.device), sound.to(self.device))

    def critic_losses(self, batch: UnitSound, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.no_grad():
            made = self.model.sound(batch.units)
        return {"loss": discriminator_loss(self.discriminators(batch.sound), self.discriminators(made))}

    def losses(self, batch: UnitSound, generator: torch.Generator) -> dict[str, Tensor]:
        made = self.model.sound(batch.units)
        spectral = spectral_distance(self.distances, made, batch.sound)
        weights = (self.spectral_weight, self.adversarial_weight, self.feature_weight)
        losses = generator_losses(self.discriminators, spectral, made, batch.sound, weights)
        if self.model.durations is not None:
            losses["durations"] = self._duration_loss(batch.units)
            losses["loss"] = losses["loss"] + self.duration_weight * losses["durations"]
        return losses

    @torch.inference_mode()
    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Spectral distance on dev utterances, each unit as long as it is; the first ones as sound."""
        distances = []
        for index in range(len(self.dev_audio)):
            units = self.units[self.dev_audio.utterances[index].id].to(self.device)
            made = self.model.sound(units[None])
            target = self.dev_audio.samples(index).to(self.device)[None]
            length = min(made.shape[1], target.shape[1])
            distances.append(spectral_distance(self.distances, made[:, :length], target[:, :length])["mel"].item())
            if index < HEARD_UTTERANCES:
                write_audio(folder / f"{step:07d}_{index}.wav", made[0].cpu(), self.model.sample_rate)
        return {"mel_distance": float(np.mean(distances))}

    def save(self, folder: Path) -> None:
        """The finished decoder, stored in half precision, and which units it speaks."""
        self.model.save_pretrained(folder, dtype=torch.float16)
        self.unit_source.save(folder)

    def _duration_loss(self, units: Tensor) -> Tensor:
        """Mean square of the logarithms of 1 + repeats, over the runs that lie wholly inside their crops."""
        assert self.model.durations is not None
        losses = []
        for row in units:
            single, repeats = row.unique_consecutive(return_counts=True)
            logs = self.model.durations(self.model.embedding(single)[None])[0]
            losses.append((logs - (repeats + 1).log())[1:-1].square())
        return torch.cat(losses).mean() if any(map(len, losses)) else units.new_zeros((), dtype=torch.float32)


def _model(config: UnitHifiGanConfig, init_from: str | Path | None) -> UnitHifiGan:
    if init_from is None:
        return UnitHifiGan(config)
    model = UnitHifiGan.from_pretrained(init_from)
    if model.config != config:
        raise InputError(
            f"init_from={init_from} is a unit HiFi-GAN of another kind: {model.config}, wanted is {config}"
        )
    return model.train()
