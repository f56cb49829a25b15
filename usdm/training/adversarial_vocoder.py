"""Adversarial training of the light vocoder, best from one that spectral distances have trained.

Spectral distances are smallest where what cannot be known is averaged, which sounds dull and rough. Discriminators
(`usdm.training.discriminators`) tell such sound from recordings, and the vocoder learns to pass as one. The spectral
distances stay, so that it still says what the mel says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from usdm.training.discriminators import Discriminators, adversarial_loss, discriminator_loss, feature_matching_loss
from usdm.training.task import AdversarialTask
from usdm.training.vocoder import VocoderTask
from usdm.vocoder import VocosSettings


class AdversarialVocoderTask(AdversarialTask):
    """Adversarial task of `usdm.training.loop.train`, on the batches of a `VocoderTask`.

    Args:
        spectral_weight: of the distances that `VocoderTask` trains with, about 1 together.
        adversarial_weight: of the hinge on the discriminators' scores, about 1 while they are not fooled.
        feature_weight: of the distance between the discriminators' features of recorded and made sound.
        period_width: channels in the first layers of the period discriminators.
        resolution_width: channels of the spectrogram discriminators.
        initial: folder of a vocoder to start from; None: random weights, which need far more steps.

    All others are those of `VocoderTask`.

    Raises:
        InputError: as `VocoderTask` does; `init_from` is of another size or mel than `settings`.
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
        spectral_weight: float = 1.0,
        adversarial_weight: float = 0.1,
        feature_weight: float = 1.0,
        period_width: int = 24,
        resolution_width: int = 16,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.spectral = VocoderTask(
            corpora,
            settings,
            roles=roles,
            batch_size=batch_size,
            crop_frames=crop_frames,
            validation_utterances=validation_utterances,
            init_from=init_from,
            seed=seed,
            device=device,
        )
        self.discriminators = Discriminators(period_width, resolution_width).to(self.spectral.device)
        self.spectral_weight = spectral_weight
        self.adversarial_weight = adversarial_weight
        self.feature_weight = feature_weight

    def modules(self) -> dict[str, nn.Module]:
        return self.spectral.modules()

    def critic_modules(self) -> dict[str, nn.Module]:
        return {"discriminators": self.discriminators}

    def batch(self, step: int) -> Tensor:
        return self.spectral.batch(step)

    def critic_losses(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.no_grad():
            made = self.spectral.vocoder(self.spectral.mel(batch))
        return {"loss": discriminator_loss(self.discriminators(batch), self.discriminators(made))}

    def losses(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        made = self.spectral.vocoder(self.spectral.mel(batch))
        weights = (self.spectral_weight, self.adversarial_weight, self.feature_weight)
        return generator_losses(self.discriminators, self.spectral.distance(made, batch), made, batch, weights)

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        return self.spectral.validate(step, folder)

    def save(self, folder: Path) -> None:
        self.spectral.save(folder)


def generator_losses(
    discriminators: Discriminators,
    spectral: dict[str, Tensor],
    made: Tensor,
    real: Tensor,
    weights: tuple[float, float, float],
) -> dict[str, Tensor]:
    """ "loss" and its parts, of sound (B, T) that is `made` and shall pass as `real`.

    `spectral`: their distances, with "loss"; `weights` of these, of the scores, and of the features.
    """
    with torch.no_grad():
        heard_real = discriminators(real)
    heard_made = discriminators(made)
    distances = dict(spectral)
    parts = {
        "spectral": distances.pop("loss"),
        "adversarial": adversarial_loss(heard_made),
        "features": feature_matching_loss(heard_real, heard_made),
    }
    loss = torch.stack([weight * part for weight, part in zip(weights, parts.values(), strict=True)]).sum()
    return {"loss": loss, **parts, **distances}
