"""The published vocoder: BigVGAN (arXiv 2206.04658), from its own files."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from usdm.audio import MelSettings
from usdm.checkpoint import read_config
from usdm.types import InputError
from usdm.vocoder.bigvgan_generator import AntiAliasedSnake, BigVGANGenerator, BigVGANSettings, without_weight_norm
from usdm.vocoder.cuda_kernel import fused_activation, why_no_fused_activation

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "bigvgan_generator.pt"
ACTIVATION_REACH = 6  # samples to each side: the filters of twice the rate, up and down again


class BigVGANVocoder(nn.Module):
    """(B, num_mels, M) log-mel -> (B, M * hop_length) sound."""

    def __init__(self, generator: BigVGANGenerator, mel: MelSettings) -> None:
        super().__init__()
        self.generator = generator
        self.mel = mel
        self.context_frames = context_frames(generator.settings)  # to each side; none beyond changes a sample

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.mel.sample_rate

    @property
    def lookahead_frames(self) -> int:
        """On the right, beyond which no change is heard."""
        return min(10, self.context_frames)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, num_mels, M) log-mel, not normalised -> (B, M * hop_length)."""
        sound: Tensor = self.generator(mel)
        return sound[:, 0]

    @classmethod
    def from_pretrained(cls, folder: str | Path, use_cuda_kernel: bool | None = False) -> BigVGANVocoder:
        """Read `config.json` and `bigvgan_generator.pt` as published.

        `use_cuda_kernel`: the fused activation, for inference on a CUDA device alone; None takes it if it can be
        compiled here, and logs why not. Raises InputError if a file is missing or damaged, or if the kernel was
        asked for and cannot be had.
        """
        config = read_config(folder)
        path = Path(folder) / WEIGHTS_FILE
        if not path.is_file():
            raise InputError(f"{path}: no such file; download the vocoder again")
        fused = use_cuda_kernel is not False and _kernel_serves(demanded=use_cuda_kernel is True)
        generator = BigVGANGenerator(BigVGANSettings.from_config(config))
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            generator.load_state_dict(without_weight_norm(weights["generator"]))
        except (RuntimeError, UnpicklingError, EOFError, KeyError) as error:
            raise InputError(
                f"{path}: damaged, or not this configuration's weights ({error}); download the vocoder again"
            ) from error
        if fused:
            use_fused_activation(generator)
        mel = MelSettings(
            sample_rate=config["sampling_rate"],
            n_fft=config["n_fft"],
            hop_length=config["hop_size"],
            win_length=config["win_size"],
            num_mels=config["num_mels"],
            f_min=config["fmin"],
            f_max=config["fmax"],
        )
        return cls(generator, mel).eval()


def use_fused_activation(generator: BigVGANGenerator) -> None:
    for module in generator.modules():
        if isinstance(module, AntiAliasedSnake):
            module.fused = fused_activation()


def context_frames(settings: BigVGANSettings) -> int:
    """How far a sample looks to each side, in frames: the reach of every stage's slowest block."""
    reach, rate = 3.0, 1  # of the first convolution, in frames; samples per frame
    for upsampling, kernel in zip(settings.upsample_rates, settings.upsample_kernel_sizes, strict=True):
        reach += ((kernel - upsampling) / 2 / upsampling + 1) / rate
        rate *= upsampling
        blocks = zip(settings.resblock_kernel_sizes, settings.resblock_dilation_sizes, strict=True)
        reach += max(
            sum((size - 1) // 2 * (dilation + 1) + 2 * ACTIVATION_REACH for dilation in dilations) / rate
            for size, dilations in blocks
        )
    return math.ceil(reach + (3 + ACTIVATION_REACH) / rate)


def _kernel_serves(demanded: bool) -> bool:
    """Raises InputError if it does not although it was demanded."""
    reason = why_no_fused_activation()
    if reason is not None and demanded:
        raise InputError(
            f"BigVGAN's CUDA kernel cannot be used here ({reason}): it needs a CUDA device, nvcc, a C++ compiler, "
            "ninja and the package bigvgan; without it the vocoder works as well, only slower"
        )
    if reason is not None:
        logger.info("BigVGAN works without its CUDA kernel: %s", reason)
    return reason is None
