"""Discriminators of waveforms, and the losses of both sides.

They hear what spectral distances average away: the fine structure of voiced speech, by folding the waveform at
several periods (HiFi-GAN, arXiv 2010.05646), and that of its spectrum, at several STFT resolutions (UnivNet, arXiv
2106.07889, as in Vocos, arXiv 2306.00814). Both are narrower than published, so that two CPU cores can train them.
Losses are means over the discriminators, so their number does not change the balance with other losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

PERIODS = (2, 3, 5, 7, 11)  # samples; prime, so that they share as little as possible
WINDOWS = (512, 1024, 2048)  # STFT, samples; hop a quarter
SLOPE = 0.1  # of the leaky rectifiers below zero


@dataclass(frozen=True)
class Judgement:
    """What one discriminator makes of a batch of sounds."""

    scores: Tensor  # (B, ...), one a place in the sound: above 0 is real
    features: tuple[Tensor, ...]  # (B, channels, ...) of each layer


class PeriodDiscriminator(nn.Module):
    """Strided convolutions over every `period`-th sample. `width` channels in the first layer, 8 times as many in the
    last ones."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        channels = (1, width, 2 * width, 4 * width, 8 * width)
        strided = [
            nn.Conv2d(before, after, (5, 1), stride=(3, 1), padding=(2, 0))
            for before, after in zip(channels, channels[1:], strict=False)
        ]
        self.layers = _normalised([*strided, nn.Conv2d(8 * width, 8 * width, (5, 1), padding=(2, 0))])
        self.score = weight_norm(nn.Conv2d(8 * width, 1, (3, 1), padding=(1, 0)))

    def forward(self, samples: Tensor) -> Judgement:
        """(B, T) with T above 10"""
        samples = functional.pad(samples, (0, -samples.shape[1] % self.period), mode="reflect")
        return _judge(samples.unflatten(1, (-1, self.period))[:, None], self.layers, self.score)


class ResolutionDiscriminator(nn.Module):
    """Convolutions over frames and bins of a magnitude spectrogram, `width` channels in every layer."""

    window: Tensor  # (n_fft,)

    def __init__(self, n_fft: int, width: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        strided = [
            nn.Conv2d(before, width, (3, 9), stride=(1, 2), padding=(1, 4)) for before in (1, width, width, width)
        ]
        self.layers = _normalised([*strided, nn.Conv2d(width, width, 3, padding=1)])
        self.score = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, samples: Tensor) -> Judgement:
        """(B, T) with T above half the window"""
        spectrum = torch.stft(samples, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        return _judge(magnitude.transpose(1, 2)[:, None], self.layers, self.score)


class Discriminators(nn.Module):
    """One for each of `PERIODS` and `WINDOWS`.

    The default widths have 1.6 million parameters together; the published widths are 128 and 32.
    """

    def __init__(self, period_width: int = 24, resolution_width: int = 16) -> None:
        super().__init__()
        self.judges = nn.ModuleList(
            [
                *(PeriodDiscriminator(period, period_width) for period in PERIODS),
                *(ResolutionDiscriminator(n_fft, resolution_width) for n_fft in WINDOWS),
            ]
        )

    def forward(self, samples: Tensor) -> list[Judgement]:
        """(B, T) sound, T above 1024 samples -> one judgement a discriminator."""
        return [judge(samples) for judge in self.judges]


def discriminator_loss(real: Sequence[Judgement], made: Sequence[Judgement]) -> Tensor:
    """Hinge: real sound shall score 1 or more, made sound -1 or less. 2 for a discriminator that knows nothing."""
    above = torch.stack([functional.relu(1 - each.scores).mean() for each in real])
    below = torch.stack([functional.relu(1 + each.scores).mean() for each in made])
    return (above + below).mean()


def adversarial_loss(made: Sequence[Judgement]) -> Tensor:
    """Hinge: made sound shall score 1 or more."""
    return torch.stack([functional.relu(1 - each.scores).mean() for each in made]).mean()


def feature_matching_loss(real: Sequence[Judgement], made: Sequence[Judgement]) -> Tensor:
    """L1 between the layers' features of real and made sound, the mean over all layers; 0 for the same sound."""
    distances = [
        functional.l1_loss(of_made, of_real.detach())
        for one, other in zip(real, made, strict=True)
        for of_real, of_made in zip(one.features, other.features, strict=True)
    ]
    return torch.stack(distances).mean()


def _normalised(convolutions: Sequence[nn.Conv2d]) -> nn.ModuleList:
    return nn.ModuleList(weight_norm(convolution) for convolution in convolutions)


def _judge(image: Tensor, layers: nn.ModuleList, score: nn.Module) -> Judgement:
    features = []
    for layer in layers:
        image = functional.leaky_relu(layer(image), SLOPE)
        features.append(image)
    return Judgement(score(image), tuple(features))
