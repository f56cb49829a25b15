"""What every vocoder offers, and which one a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from usdm.audio import MelSettings
from usdm.checkpoint import read_config
from usdm.types import InputError
from usdm.vocoder.bigvgan import BigVGANVocoder
from usdm.vocoder.vocos import VocosVocoder


class Vocoder(Protocol):
    """Log-mel spectrograms, as `MelSpectrogram(vocoder.mel)` makes them, to sound."""

    @property
    def mel(self) -> MelSettings: ...

    @property
    def sample_rate(self) -> int: ...  # Hz

    @property
    def context_frames(self) -> int: ...  # to each side, beyond which no frame changes a sample

    @property
    def lookahead_frames(self) -> int: ...  # of them on the right, beyond which no change is heard

    def __call__(self, mel: Tensor) -> Tensor: ...  # (B, num_mels, M) -> (B, M * hop_length)


def load_vocoder(folder: str | Path, use_cuda_kernel: bool | None = False) -> Vocoder:
    """The vocoder in `folder`: BigVGAN's published files, or a Vocos folder saved by this package.

    `use_cuda_kernel` is BigVGAN's fused activation (inference on a CUDA device); None takes it where it can be
    compiled. Raises InputError for a folder that holds neither, files that are missing or damaged, or a kernel
    that was asked for and cannot be had.
    """
    config = read_config(folder)
    if "upsample_initial_channel" in config:
        return BigVGANVocoder.from_pretrained(folder, use_cuda_kernel=use_cuda_kernel)
    if config.get("model_type") == VocosVocoder.model_type:
        return VocosVocoder.from_pretrained(folder)
    raise InputError(
        f"{Path(folder) / 'config.json'}: neither a BigVGAN configuration nor one with model_type "
        f"{VocosVocoder.model_type!r} (model_type is {config.get('model_type')!r}); give a vocoder's folder"
    )
