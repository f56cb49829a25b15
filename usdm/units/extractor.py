"""The unit extractor: waveform -> encoder layer -> nearest centroid (USDM section 3.1; design section 3).

One class serves the published tokenizer (XLS-R 1B, layer 34, 10,000 centroids, 50 Hz), every other SSL encoder in
transformers' classes (HuBERT, WavLM, data2vec) and the embedded one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from usdm.checkpoint import CONFIG_FILE, WEIGHTS_FILE, StoredConfig, make_readable
from usdm.types import InputError
from usdm.units.centroids import centroid_hash, nearest_centroid, read_centroids
from usdm.units.encoder import (
    Encoder,
    batches_unequal,
    channel_statistics,
    check_kind,
    encode,
    frame_count,
    frame_stride,
    keep_layers,
    load_encoder,
    receptive_field,
)
from usdm.units.settings import UnitSettings
from usdm.units.sliding import check_context, encode_long
from usdm.units.streaming import StreamingUnitExtractor
from usdm.units.tokenizer import SETTINGS_FILE, UnitStream, UnitTokenizer

CENTROIDS_FILE = "centroids.safetensors"


class UnitExtractor(UnitTokenizer):
    """Waveforms in, units out.

    Args:
        encoder: with at least `settings.layer + 1` layers; the ones above are dropped.
        centroids: (K, D).

    Raises:
        InputError: layer, K, width, rate or windows do not fit together; both values are named.
    """

    def __init__(self, encoder: Encoder, centroids: Tensor, settings: UnitSettings) -> None:
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
    def identity(self) -> str:
        """The hash of the centroids: unit corpora and language models are bound to it."""
        return centroid_hash(self.centroids)

    @torch.inference_mode()
    def forward(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Units of each waveform, of any length: (T,) float32 at `sample_rate` -> (U,) int64.

        A waveform's units do not depend on the others in the batch.
        """
        units: list[list[Tensor]] = [[] for _ in waveforms]
        for row, features in self._encoded(waveforms):
            units[row].append(nearest_centroid(features, self.centroids).cpu())
        return [torch.cat(parts) for parts in units]

    @torch.inference_mode()
    def features(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """(B, U, D) at the chosen layer, and the true number of units of each row."""
        features: list[list[Tensor]] = [[] for _ in waveforms]
        for row, part in self._encoded(waveforms):
            features[row].append(part)
        rows = [torch.cat(parts) for parts in features]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), [len(row) for row in rows]

    def _encoded(self, waveforms: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Row and (U, D) features, in the order of time within each row; a long row comes in several parts."""
        prepared = [self.prepared(waveform) for waveform in waveforms]
        statistics = [channel_statistics(self.encoder, waveform) for waveform in prepared]
        frames = [frame_count(self.encoder.config, len(waveform)) for waveform in prepared]
        size, context = _window_frames(self.settings)
        for rows in self._batches(frames, size):
            hidden = encode(self.encoder, [prepared[row] for row in rows], [statistics[row] for row in rows])
            yield from ((row, features[: frames[row]]) for row, features in zip(rows, hidden, strict=True))
        for row, count in enumerate(frames):
            if count > size:
                hidden = encode_long(self.encoder, prepared[row], statistics[row], size, context)
                yield from ((row, features) for features in hidden.split(size))

    def _batches(self, frames: Sequence[int], size: int) -> list[list[int]]:
        """Rows of at most `size` frames; together, if padding does not change what the encoder gives for them."""
        rows = [row for row, count in enumerate(frames) if count <= size]
        if batches_unequal(self.encoder.config):
            return [rows] if rows else []
        return [[row] for row in rows]

    def prepared(self, waveform: Tensor) -> Tensor:
        """A whole waveform (T,) as the encoder wants it: (padding + T + padding,) float32."""
        if waveform.dim() != 1:
            raise InputError(f"A waveform of shape {tuple(waveform.shape)} is not mono: give samples of shape (T,).")
        if len(waveform) + 2 * self.settings.padding < receptive_field(self.encoder.config):
            raise InputError(
                f"A waveform of {len(waveform)} samples ({len(waveform) / self.sample_rate:.3f} s) is shorter than one "
                f"unit (1/{self.unit_rate} s): leave it out or pad it."
            )
        if self.settings.normalize:
            return normalised(waveform, self.settings.padding)
        return functional.pad(waveform.float(), (self.settings.padding, self.settings.padding))

    def stream(self) -> UnitStream:
        return StreamingUnitExtractor(self)

    @property
    def device(self) -> torch.device:
        return self.centroids.device

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> UnitExtractor:
        """Read what `save_pretrained` wrote.

        Raises:
            InputError: a file is missing or damaged, or their contents do not fit together.
        """
        folder = Path(folder)
        require_extractor(folder)
        settings, stored_hash = _read_settings(folder / SETTINGS_FILE)
        centroids = read_centroids(folder / CENTROIDS_FILE)
        if stored_hash not in (None, centroid_hash(centroids)):
            raise InputError(
                f"{folder / CENTROIDS_FILE} has hash {centroid_hash(centroids)}, but {SETTINGS_FILE} beside it was "
                f"written for {stored_hash}: the files are not of one extractor, make or copy the folder again."
            )
        return cls(load_encoder(folder).to(dtype), centroids, settings)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the encoder (in `dtype`, transformers' layout), the centroids, and the settings.

        `units.json` comes last: a folder that has it is complete.

        Raises:
            InputError: the folder cannot be written, or the disk is full; nothing half-written stays.
        """
        folder = Path(folder)
        part = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=folder, prefix=".part-"))
            self._write(part, dtype)
            (folder / SETTINGS_FILE).unlink(missing_ok=True)
            for name in (CONFIG_FILE, WEIGHTS_FILE, CENTROIDS_FILE, SETTINGS_FILE):
                os.replace(part / name, folder / name)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{folder}: the unit extractor cannot be written ({error}); choose another place."
            ) from error
        finally:
            if part is not None:
                shutil.rmtree(part, ignore_errors=True)

    def _write(self, folder: Path, dtype: torch.dtype) -> None:
        config, precision = self.encoder.config, {"dtype": str(dtype).removeprefix("torch.")}
        if isinstance(config, StoredConfig):
            values = json.dumps(vars(config) | precision, indent=2, sort_keys=True)
            (folder / CONFIG_FILE).write_text(values + "\n", encoding="utf-8")
        else:
            type(config).from_dict(config.to_dict() | precision).save_pretrained(folder)
        state = {name: value.to(dtype).contiguous() for name, value in self.encoder.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        save_file({"centroids": self.centroids.contiguous()}, folder / CENTROIDS_FILE)
        make_readable(folder)
        settings = asdict(self.settings) | {"centroid_hash": self.identity}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n")


def require_extractor(folder: str | Path) -> None:
    """Raises InputError if `folder` lacks a file that every unit extractor has."""
    for name in (SETTINGS_FILE, CENTROIDS_FILE, CONFIG_FILE):
        if not (Path(folder) / name).is_file():
            raise InputError(f"{folder} is no unit extractor: {name} is missing. Give a folder that has it.")


def normalised(waveform: Tensor, padding: int) -> Tensor:
    """Layer-normalise a whole waveform (T,) and add silence around it: (padding + T + padding,) float32."""
    return functional.pad(functional.layer_norm(waveform.float(), waveform.shape), (padding, padding))


def pad_normalised(waveforms: Sequence[Tensor], padding: int) -> tuple[Tensor, Tensor]:
    """`normalised` waveforms as a batch: (B, T) float32 and (B,) int64 lengths in samples."""
    rows = [normalised(waveform, padding) for waveform in waveforms]
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths


def _read_settings(path: Path) -> tuple[UnitSettings, str | None]:
    """The settings and the hash of the centroids that they were written for."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        stored_hash = values.pop("centroid_hash", None)
        return UnitSettings(**values), stored_hash
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} does not hold a unit extractor's settings: {error}") from error


def _check(encoder: Encoder, centroids: Tensor, settings: UnitSettings) -> None:
    check_kind(encoder.config.model_type, type(encoder).__name__)
    layers = len(encoder.encoder.layers)
    if not 0 <= settings.layer < layers:
        raise InputError(
            f"Layer {settings.layer} (0-based) of an encoder with {layers} layers: choose one from 0 to {layers - 1}."
        )
    if centroids.shape != (settings.num_units, encoder.config.hidden_size):
        raise InputError(
            f"Centroids have shape {tuple(centroids.shape)}, but {settings.num_units} units of a "
            f"{encoder.config.hidden_size}-wide encoder need {(settings.num_units, encoder.config.hidden_size)}: "
            "take the centroids that were fitted on this encoder."
        )
    stride = frame_stride(encoder.config)
    if settings.sample_rate != settings.unit_rate * stride:
        raise InputError(
            f"unit_rate is {settings.unit_rate} Hz, but the encoder makes one frame in {stride} samples at "
            f"{settings.sample_rate} Hz ({settings.sample_rate / stride:g} Hz): set unit_rate to that."
        )
    if not 0 <= 2 * settings.context < settings.window:
        raise InputError(
            f"window is {settings.window} s and context {settings.context} s on both sides: the window must be longer "
            "than twice the context."
        )
    check_context(encoder, _window_frames(settings)[1])


def _window_frames(settings: UnitSettings) -> tuple[int, int]:
    """`window` and `context` in frames."""
    return round(settings.window * settings.unit_rate), round(settings.context * settings.unit_rate)
