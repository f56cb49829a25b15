"""Decoding while units still come: chunk after chunk, each after the mel that was given before it.

What was given before, like a reference voice, is the known beginning of a request that the decoder fills in
(Voicebox, arXiv 2306.15687), so that a chunk continues it. A few units beyond a chunk are decoded with it and
thrown away, since a sound depends on what follows it. Chunks begin small, so that the first is soon heard,
and double until they have their full size. Their frames are those of the whole reply, at the same places.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from usdm.decoder.decoder import UnitDecoder
from usdm.decoder.flow_matching import Solver
from usdm.decoder.frames import mel_frame_count, units_per_frame
from usdm.decoder.infill import InfillRequest
from usdm.decoder.sampling import check_decoding, seeded
from usdm.types import InputError, ReferenceVoice


@dataclass(frozen=True)
class StreamingSettings:
    """Lengths in units; `at_rate` gives the defaults."""

    first_units: int  # of the first chunk
    chunk_units: int  # of later chunks, at most
    left_context: int  # before a chunk, as they were given
    lookahead: int  # after a chunk, to be thrown away

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 1 if field.name.endswith("_units") else 0
            if value < least:
                raise InputError(f"{field.name}={value}: a stream's lengths are in units, this one at least {least}")

    @classmethod
    def at_rate(cls, unit_rate: float) -> StreamingSettings:
        """The same seconds at any `unit_rate` (Hz): the shortest that sound like the whole reply at once."""
        first, chunk, left, ahead = (round(seconds * unit_rate) for seconds in (0.16, 0.96, 0.96, 0.16))
        return cls(first_units=first, chunk_units=chunk, left_context=left, lookahead=ahead)


class StreamingDecoder:
    """Units in as they come, log-mels out; one object for one reply.

    Args:
        reference: a recording whose voice to speak in.
        steps, solver, guidance, temperature: as for `UnitDecoder.generate`.
        seed: of the noise; the one that starts the flow is that of `UnitDecoder.generate` with a generator of
            this manual seed.
        first_units, chunk_units, left_context, lookahead: see `StreamingSettings`.

    Raises:
        InputError: settings out of range, or a reference of another kind than the decoder's.
    """

    def __init__(
        self,
        decoder: UnitDecoder,
        *,
        first_units: int,
        chunk_units: int,
        left_context: int,
        lookahead: int,
        reference: ReferenceVoice | None = None,
        steps: int = 50,
        solver: Solver = "heun",
        guidance: float = 1.0,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        check_decoding(steps, solver, temperature)
        self.decoder = decoder
        self.lengths = StreamingSettings(first_units, chunk_units, left_context, lookahead)
        self._sample: dict[str, Any] = {
            "steps": steps,
            "solver": solver,
            "guidance": guidance,
            "temperature": temperature,
        }
        self._prompt_units, self._prompt_mel = decoder.prompt(reference)
        own_seed = seeded(seed)
        self._noise_random = torch.Generator().manual_seed(own_seed)
        self._known_random = torch.Generator().manual_seed(own_seed + 1)
        self._prompt_noise = self._draw(len(self._prompt_units))
        self._units = torch.zeros(0, dtype=torch.int64)  # all that came
        self._done = 0  # units of them that were decoded
        self._chunk = first_units
        self._start = 0  # frame at which `_mel` and `_noise` begin
        self._mel = torch.zeros(decoder.config.n_feats, 0, device=decoder.device)  # normalised, given so far
        self._noise = self._draw(0)  # (frames, n_feats), as far as was decoded or looked at
        self._ahead = self._mel

    @property
    def ahead(self) -> Tensor:
        """(n_feats, m) log-mel, not normalised, of the look-ahead behind the frames given last.

        A first view: `push` gives these frames again when it is known what follows them.
        """
        return self.decoder.denormalise(self._ahead)

    def push(self, units: Tensor) -> Tensor:
        """(n,) int64, the next units -> (n_feats, m) log-mel, not normalised, of the next frames; m may be 0.

        How the units are spread over calls changes nothing. Raises InputError for units that the decoder does
        not know.
        """
        if len(units):
            self.decoder.check_units(units)
            self._units = torch.cat([self._units, units.cpu()])
        mels = [self._mel[:, :0]]
        while self._done + self._chunk + self.lengths.lookahead <= len(self._units):
            mels.append(self._decode(self._done + self._chunk))
            self._chunk = min(2 * self._chunk, self.lengths.chunk_units)
        return self.decoder.denormalise(torch.cat(mels, dim=1))

    def finish(self) -> Tensor:
        """(n_feats, m) log-mel, not normalised, of all frames that are left: no unit follows."""
        return self.decoder.denormalise(self._decode(len(self._units)))

    def _decode(self, end: int) -> Tensor:
        """(n_feats, m) normalised mel of the units from those done to `end`."""
        beginning = max(0, self._done - self.lengths.left_context)
        horizon = min(end + self.lengths.lookahead, len(self._units))
        start, given, stop, seen = map(self._frame, (beginning, self._done, end, horizon))
        self._done = end
        if stop == given:
            return self._mel[:, :0]
        context = self._mel[:, start - self._start :]  # up to `given`
        missing = seen - self._start - len(self._noise)
        noise = torch.cat([self._noise, self._draw(max(0, missing))])[start - self._start :]
        units = units_per_frame(self._units[:horizon], self.decoder.unit_rate, self.decoder.mel, start)
        request = InfillRequest(
            units=torch.cat([self._prompt_units, units]),
            known=torch.cat([self._prompt_mel, context], dim=1),
            noise=torch.cat([self._prompt_noise, noise[: seen - start]]),
            random=self._known_random,
        )
        (mel,) = self.decoder.infill([request], **self._sample)
        new, self._ahead = mel[:, : stop - given], mel[:, stop - given :]
        self._start, self._mel, self._noise = start, torch.cat([context, new], dim=1), noise
        return new

    def _frame(self, unit: int) -> int:
        """The frame at which a unit begins."""
        return mel_frame_count(unit, self.decoder.unit_rate, self.decoder.mel)

    def _draw(self, frames: int) -> Tensor:
        """(frames, n_feats): the next rows of the noise that a whole reply starts from."""
        return torch.randn(frames, self.decoder.config.n_feats, generator=self._noise_random)
