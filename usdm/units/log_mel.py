"""Encoders that hear a log-mel spectrogram, as Whisper's does (arXiv 2212.04356), in Wav2Vec2's classes.

The layers of Whisper's encoder are those of a Wav2Vec2 encoder with `do_stable_layer_norm`. What differs comes before
them: a log-mel spectrogram goes through two convolutions, and sinusoids say where a frame stands. Here the second
convolution may take longer steps than Whisper's 20 ms, and positions still count in steps of 20 ms, so that Whisper's
weights fit: each frame is one that Whisper would have, the ones between are left out.
"""

from __future__ import annotations

import math

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, Wav2Vec2Config, Wav2Vec2Model

SAMPLE_RATE = 16_000  # Hz
WINDOW, HOP = 400, 160  # samples of the spectrogram
POSITION_STEP = 320  # samples: Whisper has 50 frames a second
POSITIONS = 1500  # that Whisper learnt, 30 s
LOUDNESS = 0.1  # of the sound that Whisper learnt from, about; a normalised waveform has 1
# Whisper's floor is 80 dB below the loudest of a recording. This one lies as far below what is loud in speech of
# `LOUDNESS`, so that a frame depends on its own sound and on the waveform's variance alone.
FLOOR = 10**-6.5


class LogMelConfig(Wav2Vec2Config):
    """Arguments of `Wav2Vec2Config`; the convolutions are those of the spectrogram and the two that follow."""

    model_type = "log-mel"

    conv_dim: list[int] | tuple[int, ...] = (80, 384, 384)  # the first is the number of mel bands
    conv_kernel: list[int] | tuple[int, ...] = (WINDOW, 3, 3)
    conv_stride: list[int] | tuple[int, ...] = (HOP, 1, 2)
    feat_extract_norm: str = "layer"
    do_stable_layer_norm: bool = True
    num_conv_pos_embeddings: int = 1  # positions are sinusoids, no convolutions
    num_conv_pos_embedding_groups: int = 1


class LogMelModel(Wav2Vec2Model):
    """A Wav2Vec2 model on log-mel frames, for waveforms of variance 1 at 16 kHz.

    The residual stream of Whisper's layers has a few features that dwarf the others, so what comes out is
    layer-normalised, from whichever layer.
    """

    config_class = LogMelConfig
    config: LogMelConfig

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__(config)
        self.feature_extractor = LogMelFrames(config)
        self.feature_projection = Unprojected()
        self.encoder.pos_conv_embed = Sinusoids(config)
        self.encoder.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, elementwise_affine=False)


class LogMelFrames(nn.Module):
    """Waveforms (B, T) -> frames (B, D, U), none of which sees beyond the config's receptive field."""

    mel: Tensor
    window: Tensor

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        bands, inner, width = config.conv_dim
        with torch.device("cpu"):  # it cannot be made on the meta device
            mel = torchaudio.functional.melscale_fbanks(
                WINDOW // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
            )
        # Stored with the weights: modules that are built on the meta device get their buffers from there.
        self.register_buffer("mel", mel.T.contiguous())
        self.register_buffer("window", torch.hann_window(WINDOW))
        self.conv1 = nn.Conv1d(bands, inner, config.conv_kernel[1], stride=config.conv_stride[1])
        self.conv2 = nn.Conv1d(inner, width, config.conv_kernel[2], stride=config.conv_stride[2])

    def forward(self, waveforms: Tensor) -> Tensor:
        mel = self.log_mel(waveforms).to(self.conv1.weight.dtype)
        return functional.gelu(self.conv2(functional.gelu(self.conv1(mel))))

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Whisper's scaling of decades: (B, T) -> (B, bands, frames) float32."""
        sound = LOUDNESS * waveforms.float()
        spectrum = torch.stft(sound, WINDOW, HOP, window=self.window.float(), center=False, return_complex=True)
        power = self.mel.float() @ spectrum.abs().square()
        return (power.clamp(min=FLOOR).log10() + 4) / 4


class Unprojected(nn.Module):
    """Frames are as wide as the layers already: (B, U, D) -> the same, for the layers and as features."""

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return frames, frames


class Sinusoids(nn.Module):
    """What Whisper adds to the frames for their positions.

    In training the first position is drawn at random, so that only distances come to matter: units of a window, or of
    a stream's tail, are then those of the whole waveform, nearly.
    """

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.step = math.prod(config.conv_stride) / POSITION_STEP

    def forward(self, frames: Tensor) -> Tensor:
        """(B, U, D) -> (U, D)."""
        count, width = frames.shape[1:]
        room = POSITIONS - int(count * self.step)
        first = int(torch.randint(room, ())) if self.training and room > 0 else 0
        positions = first + self.step * torch.arange(count, device=frames.device)
        rates = torch.exp(torch.arange(width // 2, device=frames.device) * (-math.log(10_000) / (width // 2 - 1)))
        angles = positions[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(frames.dtype)


AutoConfig.register(LogMelConfig.model_type, LogMelConfig)  # folders of this kind are read as any other's
