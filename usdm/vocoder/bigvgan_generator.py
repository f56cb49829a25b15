"""The network of BigVGAN (arXiv 2206.04658, section 3), for inference: its weight norms are folded in.

Modules have the names of the published checkpoints' weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from usdm.types import InputError

KERNEL_SIZE = 12  # samples of the filters between the rate of a layer and twice that rate
SMALLEST = 1e-9  # what the published activation adds to a divisor
END_KERNEL = 7  # samples of the first and of the last convolution

FusedActivation = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class BigVGANSettings:
    """Of the published `config.json`, what shapes the network."""

    num_mels: int
    upsample_initial_channel: int
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    resblock: str  # "1": two convolutions for each dilation; "2": one
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    activation: str  # "snake", or "snakebeta" with a magnitude of its own
    snake_logscale: bool
    use_bias_at_final: bool = True
    use_tanh_at_final: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BigVGANSettings:
        """Raises InputError for a configuration that misses something, or that is of no known network."""
        known = [field.name for field in fields(cls)]
        try:
            settings = cls(**{name: config[name] for name in known if name in config})
        except TypeError as error:
            raise InputError(f"BigVGAN's configuration: {error}; take the published config.json") from error
        for name, known_values in (("resblock", ("1", "2")), ("activation", ("snake", "snakebeta"))):
            if getattr(settings, name) not in known_values:
                raise InputError(f"BigVGAN's configuration: {name}={getattr(settings, name)!r}, not in {known_values}")
        return settings

    @property
    def widths(self) -> list[int]:
        """Channels before the first upsampling, and after each."""
        return [self.upsample_initial_channel // 2**stage for stage in range(len(self.upsample_rates) + 1)]


class Snake(nn.Module):
    """x + sin(alpha x)^2 / beta, with a frequency alpha and a magnitude beta for each channel.

    Source: arXiv 2006.08195, where beta is alpha.
    """

    def __init__(self, channels: int, own_magnitude: bool, log_scale: bool) -> None:
        super().__init__()
        self.log_scale = log_scale
        start = torch.zeros if log_scale else torch.ones
        self.alpha = nn.Parameter(start(channels))
        self.beta = nn.Parameter(start(channels)) if own_magnitude else None

    def stored_curve(self) -> tuple[Tensor, Tensor]:
        """Alpha and beta, (C,) each, as they are stored: perhaps as logarithms."""
        return self.alpha, self.alpha if self.beta is None else self.beta

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        alpha, beta = (curve.exp() if self.log_scale else curve for curve in self.stored_curve())
        return x + (1.0 / (beta[:, None] + SMALLEST)) * torch.sin(x * alpha[:, None]) ** 2


class Filter(nn.Module):
    """A buffer under the name that checkpoints have for it."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", low_pass_filter())


class Downsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lowpass = Filter()


class AntiAliasedSnake(nn.Module):
    """A Snake at twice the rate, so that the harmonics that it adds do not fold back (section 3.3).

    `fused`: one kernel for all of it, see `usdm.vocoder.cuda_kernel`.
    """

    def __init__(self, channels: int, settings: BigVGANSettings) -> None:
        super().__init__()
        self.act = Snake(channels, settings.activation == "snakebeta", settings.snake_logscale)
        self.upsample = Filter()
        self.downsample = Downsampling()
        self.fused: FusedActivation | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        up, down = self.upsample.filter, self.downsample.lowpass.filter
        if self.fused is not None:
            curve = (each if self.act.log_scale else each.log() for each in self.act.stored_curve())
            return self.fused(x, up, down, *curve)
        channels, reach = x.shape[1], KERNEL_SIZE // 2
        x = functional.pad(x, (reach - 1, reach - 1), mode="replicate")
        x = 2 * functional.conv_transpose1d(x, up.expand(channels, -1, -1), stride=2, groups=channels)
        edge = 2 * (reach - 1) + reach - 1
        x = self.act(x[..., edge:-edge])
        x = functional.pad(x, (reach - 1, reach), mode="replicate")
        return functional.conv1d(x, down.expand(channels, -1, -1), stride=2, groups=channels)


class ResidualBlock(nn.Module):
    """Dilated convolutions behind activations; "1" has an undilated one behind each."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...], settings: BigVGANSettings) -> None:
        super().__init__()
        dilated = nn.ModuleList(_convolution(channels, kernel_size, dilation) for dilation in dilations)
        if settings.resblock == "1":
            self.convs1 = dilated
            self.convs2 = nn.ModuleList(_convolution(channels, kernel_size, 1) for _ in dilations)
            self._steps = [[first, second] for first, second in zip(self.convs1, self.convs2, strict=True)]
        else:
            self.convs = dilated
            self._steps = [[only] for only in dilated]
        count = sum(len(step) for step in self._steps)
        self.activations = nn.ModuleList(AntiAliasedSnake(channels, settings) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        activations = iter(self.activations)
        for step in self._steps:
            change = x
            for convolution in step:
                change = convolution(next(activations)(change))
            x = change + x
        return x


class BigVGANGenerator(nn.Module):
    """(B, num_mels, M) log-mel -> (B, 1, M * hop) sound in [-1, 1]."""

    def __init__(self, settings: BigVGANSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = settings.widths
        padding = END_KERNEL // 2
        self.conv_pre = nn.Conv1d(settings.num_mels, widths[0], END_KERNEL, padding=padding)
        upsamplings = zip(pairwise(widths), settings.upsample_rates, settings.upsample_kernel_sizes, strict=True)
        self.ups = nn.ModuleList(
            nn.ModuleList([nn.ConvTranspose1d(before, after, kernel, rate, padding=(kernel - rate) // 2)])
            for (before, after), rate, kernel in upsamplings
        )
        kinds = list(zip(settings.resblock_kernel_sizes, settings.resblock_dilation_sizes, strict=True))
        self.resblocks = nn.ModuleList(
            ResidualBlock(width, kernel, tuple(dilations), settings)
            for width in widths[1:]
            for kernel, dilations in kinds
        )
        self.activation_post = AntiAliasedSnake(widths[-1], settings)
        self.conv_post = nn.Conv1d(widths[-1], 1, END_KERNEL, padding=padding, bias=settings.use_bias_at_final)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.conv_pre(mel)
        per_stage = len(self.settings.resblock_kernel_sizes)
        for stage, upsampling in enumerate(self.ups):
            x = upsampling[0](x)  # type: ignore[index]
            blocks = self.resblocks[stage * per_stage : (stage + 1) * per_stage]
            x = sum(block(x) for block in blocks) / per_stage
        x = self.conv_post(self.activation_post(x))
        return torch.tanh(x) if self.settings.use_tanh_at_final else x.clamp(-1, 1)


def without_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights `g v / |v|` in place of each pair `weight_g` and `weight_v` that training keeps.

    Raises KeyError for one without the other.
    """
    plain = {name: tensor for name, tensor in state.items() if not name.endswith(("weight_g", "weight_v"))}
    for name, direction in state.items():
        if name.endswith("weight_v"):
            length = state[name.removesuffix("_v") + "_g"]
            plain[name.removesuffix("_v")] = torch._weight_norm(direction, length, 0)
    return plain


def low_pass_filter() -> Tensor:
    """(1, 1, 12): a sinc at half the band under a Kaiser window that falls off over 0.3 of the rate, of sum 1."""
    half = KERNEL_SIZE // 2
    attenuation = 2.285 * (half - 1) * math.pi * 4 * 0.3 + 7.95  # 51 dB, Kaiser's formula
    beta = 0.1102 * (attenuation - 8.7)  # his choice above 50 dB
    window = torch.kaiser_window(KERNEL_SIZE, beta=beta, periodic=False)
    taps = 0.5 * window * torch.sinc(0.5 * (torch.arange(-half, half) + 0.5))
    return (taps / taps.sum()).view(1, 1, KERNEL_SIZE)


def _convolution(channels: int, kernel_size: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=(kernel_size - 1) * dilation // 2)
