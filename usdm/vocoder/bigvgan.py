"""The published vocoder: BigVGAN (arXiv 2206.04658) through the package `bigvgan`, from its own files."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm

from usdm.audio import MelSettings
from usdm.checkpoint import read_config
from usdm.types import InputError

WEIGHTS_FILE = "bigvgan_generator.pt"


class BigVGANVocoder(nn.Module):
    """(B, num_mels, M) log-mel -> (B, M * hop_length) sound."""

    def __init__(self, generator: nn.Module, mel: MelSettings) -> None:
        super().__init__()
        self.generator = generator
        self.mel = mel

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.mel.sample_rate

    def forward(self, mel: Tensor) -> Tensor:
        """(B, num_mels, M) log-mel, not normalised -> (B, M * hop_length)."""
        sound: Tensor = self.generator(mel)
        return sound[:, 0]

    @classmethod
    def from_pretrained(cls, folder: str | Path, use_cuda_kernel: bool = False) -> BigVGANVocoder:
        """Read `config.json` and `bigvgan_generator.pt` as published.

        `use_cuda_kernel` compiles BigVGAN's fused activation on first use (CUDA, inference only). Raises
        InputError if a file is missing or damaged, ImportError without the package `bigvgan`.
        """
        # Imported here: the package brings librosa and matplotlib, seconds that others need not pay.
        from bigvgan.bigvgan import BigVGAN
        from bigvgan.env import AttrDict

        config = read_config(folder)
        path = Path(folder) / WEIGHTS_FILE
        if not path.is_file():
            raise InputError(f"{path}: no such file; download the vocoder again")
        generator = BigVGAN(AttrDict(config), use_cuda_kernel=use_cuda_kernel)
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            generator.load_state_dict(weights["generator"])
        except (RuntimeError, UnpicklingError, EOFError, KeyError) as error:
            raise InputError(
                f"{path}: damaged, or not this configuration's weights ({error}); download the vocoder again"
            ) from error
        for module in generator.modules():
            if hasattr(module, "weight_g"):
                remove_weight_norm(module)
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
