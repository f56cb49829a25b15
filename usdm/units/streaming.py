"""Units while the person still speaks, so that at the end of the turn only its tail is left to encode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from usdm.types import InputError
from usdm.units.centroids import nearest_centroid
from usdm.units.encoder import Encoder, channel_statistics, encode, frame_count, frame_stride
from usdm.units.settings import UnitSettings

EPSILON = 1e-5  # of the layer norm over the waveform


class EncoderUnits(Protocol):
    """What is asked of a `UnitExtractor`."""

    encoder: Encoder
    centroids: Tensor  # (K, D)
    settings: UnitSettings

    @property
    def unit_rate(self) -> int: ...

    @property
    def sample_rate(self) -> int: ...

    def __call__(self, waveforms: Sequence[Tensor]) -> list[Tensor]: ...


class StreamingUnitExtractor:
    """One waveform, given block by block.

    Units become final once `lookahead` seconds after them are heard. They are then encoded together with `left_context`
    seconds before them, normalised with the mean and variance of all that was heard so far. A whole utterance would be
    normalised with those of its future, too, and attend to all of it, so some units differ; a waveform that is shorter
    than `step + lookahead` gets exactly the units of `extractor`.

    Args:
        step: seconds of new sound for which the encoder runs.
    """

    def __init__(
        self, extractor: EncoderUnits, *, step: float = 0.5, lookahead: float = 1.0, left_context: float = 10.0
    ) -> None:
        self.extractor = extractor
        rate = extractor.unit_rate
        self._step, self._lookahead = max(1, round(step * rate)), round(lookahead * rate)
        self._left_context = round(left_context * rate)
        self._stride = frame_stride(extractor.encoder.config)
        self._recent = torch.empty(0)  # samples that may still be encoded
        self._dropped = 0  # samples before them
        self._sum = self._squares = 0.0
        self._final = 0  # units given out

    @property
    def seconds(self) -> float:
        """Sound heard so far."""
        return self._heard / self.extractor.sample_rate

    @property
    def held_seconds(self) -> float:
        """Sound that is kept because it may be encoded again: bounded, however long the turn."""
        return len(self._recent) / self.extractor.sample_rate

    def push(self, samples: Tensor) -> Tensor:
        """Samples (T,) float32 at the extractor's rate -> new final units (U,) int64, often none."""
        self._hear(samples)
        ready = frame_count(self.extractor.encoder.config, self.extractor.settings.padding + self._heard)
        ready -= self._lookahead
        if ready - self._final < self._step:
            return torch.empty(0, dtype=torch.int64)
        return self._encode(ready, self._heard)

    def finish(self) -> Tensor:
        """The rest of the units (U,) int64: together as many as `extractor` gives for the whole waveform.

        Raises:
            InputError: all that was heard is shorter than one unit.
        """
        padding = self.extractor.settings.padding
        total = frame_count(self.extractor.encoder.config, self._heard + 2 * padding)
        if total == 0:
            raise InputError(f"{self.seconds:.3f} s of sound is shorter than one unit: leave it out or pad it.")
        return self._encode(total, self._heard + padding)

    def whole(self) -> Tensor | None:
        """All units of what was heard, exactly as `extractor` gives them, or None once its beginning was let go.

        A turn of up to `left_context` is encoded once more: that costs no more than its tail, which is encoded with as
        much before it.

        Raises:
            InputError: all that was heard is shorter than one unit.
        """
        return None if self._dropped else self.extractor([self._recent])[0]

    @property
    def _heard(self) -> int:
        return self._dropped + len(self._recent)

    def _hear(self, samples: Tensor) -> None:
        samples = samples.float().cpu()
        self._recent = torch.cat([self._recent, samples])
        self._sum += float(samples.double().sum())
        self._squares += float(samples.double().pow(2).sum())

    @torch.inference_mode()
    def _encode(self, end: int, last_sample: int) -> Tensor:
        """Units up to `end`, from sound up to `last_sample`; silence stands before and after what was heard."""
        extractor, padding = self.extractor, self.extractor.settings.padding
        first = max(0, self._final - self._left_context)
        first_sample = first * self._stride - padding
        start = max(0, first_sample)
        piece = functional.pad(
            self._normalised(self._recent[start - self._dropped :]), (start - first_sample, last_sample - self._heard)
        )
        statistics = channel_statistics(extractor.encoder, piece)
        features = encode(extractor.encoder, [piece], [statistics])[0, self._final - first : end - first]
        self._final = end
        self._forget()
        return nearest_centroid(features, extractor.centroids).cpu()

    def _normalised(self, samples: Tensor) -> Tensor:
        if not self.extractor.settings.normalize:
            return samples
        mean = self._sum / self._heard
        variance = max(0.0, self._squares / self._heard - mean**2)
        return (samples - mean) / (variance + EPSILON) ** 0.5

    def _forget(self) -> None:
        """Drop the samples that lie before every window to come."""
        first = (self._final - self._left_context) * self._stride - self.extractor.settings.padding
        surplus = max(0, first - self._dropped)
        self._recent, self._dropped = self._recent[surplus:].clone(), self._dropped + surplus
