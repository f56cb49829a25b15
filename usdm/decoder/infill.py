"""What the decoder fills in: a stretch of speech whose units are all known, and whose mel is known at its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from usdm.decoder.flow_matching import path


@dataclass(frozen=True)
class InfillRequest:
    """One row of a batch. The known mel is on the decoder's device, units and noise are on the CPU."""

    units: Tensor  # (M,) int64, per frame
    known: Tensor  # (n_feats, P) normalised mel of the first P frames: a reference voice, or what was said before
    noise: Tensor  # (M, n_feats) standard normal, where the flow starts from
    random: torch.Generator  # noise of the known frames at later times

    @property
    def frames(self) -> int:
        return len(self.units)


class MelPrompt:
    """The known beginnings of a batch of requests, held to their own path while the rest flows.

    At every time the known frames are put to where fresh noise would be on its way to them, so that the
    estimator sees all frames at the same distance from the data (as published for reference voices).
    """

    def __init__(self, requests: Sequence[InfillRequest], temperature: float, sigma_min: float) -> None:
        self.temperature = temperature
        self.sigma_min = sigma_min
        self.randoms = [request.random for request in requests]
        self.lengths = [request.known.shape[1] for request in requests]
        self.mel = pad_sequence([request.known.T for request in requests], batch_first=True).transpose(1, 2)
        positions = torch.arange(self.mel.shape[-1])
        self.inside = (positions < torch.tensor(self.lengths)[:, None])[:, None].to(self.mel.device)  # (B, 1, P)

    def constrain(self, state: Tensor, time: float) -> Tensor:
        """(B, n_feats, M), its known frames replaced."""
        longest = self.mel.shape[-1]
        if longest == 0:
            return state
        fresh = [
            torch.randn(self.mel.shape[1], length, generator=random).T
            for random, length in zip(self.randoms, self.lengths, strict=True)
        ]
        noise = self.temperature * pad_sequence(fresh, batch_first=True).transpose(1, 2).to(state)
        known = path(noise, self.mel, time, self.sigma_min)
        beginning = torch.where(self.inside, known, state[..., :longest])
        return torch.cat([beginning, state[..., longest:]], dim=-1)
