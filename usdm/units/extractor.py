"""The unit extractor: waveform -> encoder layer -> nearest centroid (USDM section 3.1; design section 3).

One class serves the published tokenizer (XLS-R 1B, layer 34, 10,000 centroids, 50 Hz) and the embedded one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2Model

from usdm.checkpoint import fill, read_config, read_weights
from usdm.types import InputError

SETTINGS_FILE, CENTROIDS_FILE = "units.json", "centroids.safetensors"


@dataclass(frozen=True)
class UnitSettings:
    """Where in the encoder the units come from."""

    layer: int  # 0-based; its output before any final norm
    num_units: int  # K
    unit_rate: int  # Hz
    sample_rate: int = 16_000  # Hz
    padding: int = 0  # samples of silence on each side, so that frames are centred


class UnitExtractor(nn.Module):
    """Waveforms in, units out.

    Args:
        encoder: with at least `settings.layer + 1` layers; the ones above are dropped.
        centroids: (K, D).

    Raises:
        InputError: layer, K, width or rate do not fit together; both values are named.
    """

    def __init__(self, encoder: Wav2Vec2Model, centroids: Tensor, settings: UnitSettings) -> None:
        super().__init__()
        _check(encoder, centroids, settings)
        self.settings = settings
        self.encoder = keep_layers(encoder, settings.layer + 1)
        self.centroids: Tensor
        self.register_buffer("centroids", centroids.float())
        self.eval()

    @property
    def num_units(self) -> int:
        return self.settings.num_units

    @property
    def unit_rate(self) -> int:
        """Units a second."""
        return self.settings.unit_rate

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms that go in."""
        return self.settings.sample_rate

    @property
    def centroid_hash(self) -> str:
        """Names these very centroids: unit corpora and language models are bound to it."""
        return hashlib.sha256(self.centroids.cpu().numpy().tobytes()).hexdigest()[:16]

    @torch.inference_mode()
    def forward(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Units of each waveform: (T,) float32 at `sample_rate` -> (U,) int64.

        A waveform's units do not depend on the others in the batch.
        """
        features, lengths = self.features(waveforms)
        units = nearest_centroid(features, self.centroids)
        return [row[:length].cpu() for row, length in zip(units, lengths, strict=True)]

    def features(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """(B, U, D) at the chosen layer, and the true number of units of each row."""
        device = self.centroids.device
        shortest = min(waveform.shape[-1] for waveform in waveforms)
        if shortest + 2 * self.settings.padding < receptive_field(self.encoder.config):
            raise InputError(
                f"A waveform of {shortest} samples ({shortest / self.sample_rate:.3f} s) is shorter than one unit "
                f"(1/{self.unit_rate} s): leave it out or pad it."
            )
        batch, samples = pad_normalised(waveforms, self.settings.padding)
        mask = torch.arange(batch.shape[1])[None] < samples[:, None]
        lengths = self.encoder._get_feat_extract_output_lengths(samples).tolist()
        dtype = next(self.encoder.parameters()).dtype
        even = bool(mask.all())
        hidden = self.encoder(
            batch.to(device, dtype), attention_mask=None if even else mask.to(device).long()
        ).last_hidden_state
        return hidden.float(), lengths

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> UnitExtractor:
        """Read what `save_pretrained` wrote.

        Raises:
            InputError: a file is missing, or its contents do not fit together.
        """
        folder = Path(folder)
        for name in (SETTINGS_FILE, CENTROIDS_FILE, "config.json"):
            if not (folder / name).is_file():
                raise InputError(f"{folder} is no unit extractor: {name} is missing. Give a folder that has it.")
        settings = UnitSettings(**json.loads((folder / SETTINGS_FILE).read_text()))
        return cls(load_encoder(folder).to(dtype), load_file(folder / CENTROIDS_FILE)["centroids"], settings)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the encoder (in `dtype`, transformers' layout), the centroids, and the settings."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = Wav2Vec2Config.from_dict(self.encoder.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")})
        config.save_pretrained(folder)
        state = {name: value.to(dtype).contiguous() for name, value in self.encoder.state_dict().items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        save_file({"centroids": self.centroids.contiguous()}, folder / CENTROIDS_FILE)
        (folder / SETTINGS_FILE).write_text(json.dumps(asdict(self.settings), indent=1) + "\n")


def load_encoder(folder: str | Path) -> Wav2Vec2Model:
    """An encoder that lost its upper layers through `keep_layers`, float32.

    Raises:
        InputError: a file is missing, damaged, or does not fit the config.
    """
    config = Wav2Vec2Config.from_dict(read_config(folder))
    encoder = keep_layers(Wav2Vec2Model(config), config.num_hidden_layers)
    fill(encoder, read_weights(folder), folder)
    return encoder


def keep_layers(encoder: Wav2Vec2Model, count: int) -> Wav2Vec2Model:
    """Drop the transformer layers above `count` and the final norm, so that the output is the last kept layer's."""
    encoder.encoder.layers = encoder.encoder.layers[:count]
    encoder.encoder.layer_norm = nn.Identity()
    encoder.config.num_hidden_layers = count
    # Masking is for training.
    encoder.config.mask_time_prob = encoder.config.mask_feature_prob = 0.0
    if hasattr(encoder, "masked_spec_embed"):
        del encoder.masked_spec_embed
    return encoder


def nearest_centroid(features: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest centroid in squared Euclidean distance: (..., D) and (K, D) -> (...) int64."""
    return (centroids.pow(2).sum(1) - 2 * features @ centroids.T).argmin(-1)


def pad_normalised(waveforms: Sequence[Tensor], padding: int) -> tuple[Tensor, Tensor]:
    """Layer-normalise each whole waveform, add silence around it: (B, T) float32 and (B,) int64 lengths in samples."""
    normalised = [
        functional.pad(functional.layer_norm(waveform.float(), waveform.shape), (padding, padding))
        for waveform in waveforms
    ]
    lengths = torch.tensor([waveform.shape[-1] for waveform in normalised])
    return nn.utils.rnn.pad_sequence(normalised, batch_first=True), lengths


def receptive_field(config: Wav2Vec2Config) -> int:
    """Samples that one frame of the convolutions sees."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def _check(encoder: Wav2Vec2Model, centroids: Tensor, settings: UnitSettings) -> None:
    layers = len(encoder.encoder.layers)
    if settings.layer >= layers:
        raise InputError(
            f"Layer {settings.layer} (0-based) of an encoder with {layers} layers: choose one below {layers}."
        )
    if centroids.shape != (settings.num_units, encoder.config.hidden_size):
        raise InputError(
            f"Centroids have shape {tuple(centroids.shape)}, but {settings.num_units} units of a "
            f"{encoder.config.hidden_size}-wide encoder need {(settings.num_units, encoder.config.hidden_size)}: "
            "take the centroids that were fitted on this encoder."
        )
    stride = 1
    for factor in encoder.config.conv_stride:
        stride *= factor
    if settings.sample_rate != settings.unit_rate * stride:
        raise InputError(
            f"unit_rate is {settings.unit_rate} Hz, but the encoder makes one frame in {stride} samples at "
            f"{settings.sample_rate} Hz ({settings.sample_rate / stride:g} Hz): set unit_rate to that."
        )
    if encoder.config.feat_extract_norm != "layer":
        raise InputError(
            f"The encoder's feat_extract_norm is '{encoder.config.feat_extract_norm}', which mixes padding into short "
            "rows of a batch: only encoders with 'layer' are supported."
        )
