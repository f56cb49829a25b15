"""The light vocoder: ConvNeXt blocks and an inverse STFT (Vocos, arXiv 2306.00814; package `vocos`)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from usdm.audio import MelSettings
from usdm.checkpoint import fill, read_config, read_weights, save_folder
from usdm.types import InputError

KERNEL_SIZE = 7  # of every convolution over frames, fixed by the package


@dataclass(frozen=True)
class VocosSettings:
    """Defaults are the embedded model's size."""

    dim: int = 256
    intermediate_dim: int = 768
    num_layers: int = 6
    mel: MelSettings = field(default_factory=MelSettings)


class VocosVocoder(nn.Module):
    """(B, num_mels, M) log-mel -> (B, M * hop_length) sound, frame for frame with `MelSpectrogram`."""

    model_type: ClassVar[str] = "vocos"

    def __init__(self, settings: VocosSettings = VocosSettings()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.settings = settings
        mel = settings.mel
        self.backbone = VocosBackbone(mel.num_mels, settings.dim, settings.intermediate_dim, settings.num_layers)
        # "same" padding trims (n_fft - hop_length) / 2 samples at both ends: what the front end reflects.
        self.head = ISTFTHead(settings.dim, mel.n_fft, mel.hop_length, padding="same")
        # A constant, which half-precision storage would only spoil.
        self.head.istft.register_buffer("window", torch.hann_window(mel.n_fft), persistent=False)

    @property
    def mel(self) -> MelSettings:
        return self.settings.mel

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.settings.mel.sample_rate

    @property
    def context_frames(self) -> int:
        """To each side, beyond which no frame changes a sample: the convolutions' reach and the window's overlap."""
        mel = self.settings.mel
        convolutions = 1 + self.settings.num_layers
        return convolutions * (KERNEL_SIZE // 2) + math.ceil((mel.n_fft - mel.hop_length) / 2 / mel.hop_length)

    @property
    def lookahead_frames(self) -> int:
        """On the right, beyond which no change is heard."""
        return min(12, self.context_frames)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, num_mels, M) log-mel, not normalised -> (B, M * hop_length)."""
        hidden = self.backbone(mel)  # (B, M, dim)
        sound: Tensor = self.head(hidden)
        return sound

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VocosVocoder:
        """Raises InputError if a file is missing, damaged, or does not fit the configuration."""
        config = read_config(folder)
        config.pop("model_type", None)
        try:
            settings = VocosSettings(**{**config, "mel": MelSettings(**config["mel"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder}: not the configuration of a Vocos vocoder ({error})") from error
        vocoder = cls(settings)
        fill(vocoder, read_weights(folder), folder)
        return vocoder.eval()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """`dtype` torch.float16 halves the file; loading converts back."""
        config: dict[str, Any] = {"model_type": self.model_type, **asdict(self.settings)}
        save_folder(folder, config, self, dtype)
