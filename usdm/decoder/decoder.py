"""The unit decoder: units in, log-mel spectrogram out, in a reference recording's voice if one is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from usdm.audio import MelSettings
from usdm.checkpoint import fill, read_config, read_weights, save_folder
from usdm.decoder.estimator import VelocityEstimator
from usdm.decoder.flow_matching import Solver, Velocity, integrate, masked_mean, path, velocity_error
from usdm.decoder.frames import units_per_frame
from usdm.types import InputError, ReferenceVoice


@dataclass(frozen=True)
class UnitDecoderConfig:
    """`config.json`, key by key. The last three are ours, with the published values by default."""

    n_tokens: int  # K
    n_feats: int = 80  # mel bands
    embedding_dim: int = 1280
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_attention_heads: int = 16
    num_hidden_layers: int = 24
    convpos_width: int = 31  # frames
    convpos_groups: int = 16
    convpos_depth: int = 2
    attention_dropout: float = 0.0
    activation_dropout: float = 0.1
    hidden_dropout: float = 0.0
    sigma_min: float = 1e-4
    solver: Solver = "euler"  # in published files; generation takes the solver as an argument
    unit_rate: int = 50  # Hz
    mel_mean: float = -5.5419  # of log-mels of speech
    mel_std: float = 2.1575


class UnitDecoder(nn.Module):
    """Flow matching from units to log-mels (USDM, arXiv 2402.05706, section 3.4)."""

    def __init__(self, config: UnitDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = MelSettings(num_mels=config.n_feats)
        self.estimator = VelocityEstimator(
            num_mels=config.n_feats,
            num_embeddings=config.n_tokens + 1,
            embedding_dim=config.embedding_dim,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_attention_heads,
            num_layers=config.num_hidden_layers,
            convpos_width=config.convpos_width,
            convpos_groups=config.convpos_groups,
            convpos_depth=config.convpos_depth,
            attention_dropout=config.attention_dropout,
            activation_dropout=config.activation_dropout,
            hidden_dropout=config.hidden_dropout,
        )

    @property
    def num_units(self) -> int:
        """K. Unit K itself stands for "no units given"."""
        return self.config.n_tokens

    @property
    def unit_rate(self) -> int:
        """Hz."""
        return self.config.unit_rate

    def normalise(self, mel: Tensor) -> Tensor:
        return (mel - self.config.mel_mean) / self.config.mel_std

    def denormalise(self, mel: Tensor) -> Tensor:
        return mel * self.config.mel_std + self.config.mel_mean

    def velocity_error(
        self, units: Tensor, mel: Tensor, lengths: Tensor, time: Tensor, noise: Tensor, context: Tensor
    ) -> Tensor:
        """(B, n_feats, M): how far the estimated velocity is off, everywhere.

        Args:
            units: (B, M) int64, per frame; K where they are dropped.
            mel: (B, n_feats, M) normalised.
            lengths: (B,) frames.
            time: (B,) in [0, 1].
            noise: (B, n_feats, M) standard normal.
            context: (B, 1, M), 1 where the mel is given.
        """

        def velocity(state: Tensor, at: Tensor) -> Tensor:
            return self.estimator(units, state, mel * context, at, lengths)

        return velocity_error(velocity, mel, noise, time, self.config.sigma_min)

    def loss(self, units: Tensor, mel: Tensor, lengths: Tensor, time: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """Flow matching loss: mean squared velocity error of frames that are neither context nor padding.

        Arguments as for `velocity_error`.
        """
        error = self.velocity_error(units, mel, lengths, time, noise, context)
        return masked_mean(error.square(), scored_frames(lengths, context))

    def generate(
        self,
        units: Tensor,
        *,
        reference: ReferenceVoice | None = None,
        steps: int = 50,
        solver: Solver = "heun",
        guidance: float = 1.0,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(U,) int64 -> (n_feats, M) log-mel, not normalised. As `generate_batch`, for one sequence."""
        return self.generate_batch(
            [units],
            reference=reference,
            steps=steps,
            solver=solver,
            guidance=guidance,
            temperature=temperature,
            generator=generator,
        )[0]

    @torch.no_grad()
    def generate_batch(
        self,
        units: Sequence[Tensor],
        *,
        reference: ReferenceVoice | None = None,
        steps: int = 50,
        solver: Solver = "heun",
        guidance: float = 1.0,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """Sequences (U,) int64 of any lengths -> (n_feats, M) log-mels, not normalised.

        Args:
            reference: a recording whose voice to speak in; all sequences share it.
            steps: evaluations of the estimator (each of twice the batch under guidance).
            guidance: how far to go beyond the conditional velocity, away from the unconditional one.
            temperature: scale of the initial noise. 0 follows the one path that starts from zeros.
            generator: source of the noise. Its next seed is every sequence's own, so that a sequence sounds
                the same alone and in a batch.

        Raises:
            InputError: no units, units outside 0..K-1, or settings out of range.
        """
        if not units:
            return []
        _check_sampling(steps, solver, temperature)
        for row in [*units, *([reference.units] if reference else [])]:
            self._check_units(row)
        prompt_units, prompt_mel = self._prompt(reference)
        prompt = len(prompt_units)
        rows = [torch.cat([prompt_units, self._frames(row)]) for row in units]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        frames = pad_sequence(rows, batch_first=True)  # (B, M)
        context = nn.functional.pad(prompt_mel, (0, frames.shape[1] - prompt)).expand(len(rows), -1, -1)

        seed = int(torch.randint(2**62, (), generator=generator))
        noise = temperature * self._noise(seed, lengths.tolist())
        prompt_random = torch.Generator().manual_seed(seed + 1)

        def keep_prompt(state: Tensor, time: float) -> Tensor:
            fresh = temperature * torch.randn(prompt_mel.shape, generator=prompt_random).to(state)
            known = path(fresh, prompt_mel, time, self.config.sigma_min).expand(len(state), -1, -1)
            return torch.cat([known, state[..., prompt:]], dim=-1)

        velocity = self.guided_velocity(frames, context, lengths, guidance)
        mels = self.denormalise(integrate(velocity, noise.to(context), steps, solver, keep_prompt if prompt else None))
        return [mel[:, prompt:length] for mel, length in zip(mels, lengths.tolist(), strict=True)]

    def guided_velocity(self, frames: Tensor, context: Tensor, lengths: Tensor, guidance: float) -> Velocity:
        """v + guidance (v - v without units and context), as a function of state and time alone.

        `frames` (B, M) units per frame, `context` (B, n_feats, M) normalised mel, zeros where it is not
        given, `lengths` (B,) frames.
        """
        if guidance == 0:
            return lambda state, time: self.estimator(frames, state, context, time, lengths)
        both_frames = torch.cat([frames, torch.full_like(frames, self.num_units)])
        both_contexts = torch.cat([context, torch.zeros_like(context)])
        both_lengths = lengths.repeat(2)

        def velocity(state: Tensor, time: Tensor) -> Tensor:
            both = self.estimator(both_frames, state.repeat(2, 1, 1), both_contexts, time.repeat(2), both_lengths)
            conditional, unconditional = both.chunk(2)
            return conditional + guidance * (conditional - unconditional)

        return velocity

    def _frames(self, units: Tensor) -> Tensor:
        return units_per_frame(units.to(self.device), self.unit_rate, self.mel)

    def _prompt(self, reference: ReferenceVoice | None) -> tuple[Tensor, Tensor]:
        """Units per frame (P,) and normalised mel (1, n_feats, P) of the reference; P is 0 without one."""
        if reference is None:
            nothing = torch.zeros(1, self.config.n_feats, 0, device=self.device)
            return torch.zeros(0, dtype=torch.int64, device=self.device), nothing
        if reference.mel.shape[0] != self.config.n_feats:
            raise InputError(
                f"the reference voice's mel has {reference.mel.shape[0]} bands, this decoder "
                f"{self.config.n_feats}: make it with the decoder's `mel` settings"
            )
        units = self._frames(reference.units)
        length = min(len(units), reference.mel.shape[-1])
        return units[:length], self.normalise(reference.mel[None, :, :length].to(self.device).float())

    def _noise(self, seed: int, lengths: Sequence[int]) -> Tensor:
        """(B, n_feats, M) standard normal. Each row has a generator of its own with the one seed."""
        rows = [
            torch.randn(length, self.config.n_feats, generator=torch.Generator().manual_seed(seed))
            for length in lengths
        ]
        return pad_sequence(rows, batch_first=True).transpose(1, 2)

    def _check_units(self, units: Tensor) -> None:
        if units.dim() != 1 or len(units) == 0:
            raise InputError(f"units of shape {tuple(units.shape)}: a sequence (U,) of at least one is needed")
        if (lowest := int(units.min())) < 0 or int(units.max()) >= self.num_units:
            raise InputError(
                f"units {lowest}..{int(units.max())}: this decoder knows 0..{self.num_units - 1}; "
                "take the unit extractor that it was trained with"
            )

    @property
    def device(self) -> torch.device:
        return self.estimator.proj_out.weight.device

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> UnitDecoder:
        """Read the published layout or what `save_pretrained` wrote.

        Raises:
            InputError: a file is missing, damaged, or contradicts the configuration.
        """
        values = read_config(folder)
        try:
            config = UnitDecoderConfig(**values)
        except TypeError as error:
            raise InputError(f"{folder}: its config.json is not that of a unit decoder ({error})") from error
        weights = read_weights(folder)
        rows = len(weights["estimator.embed.weight"]) if "estimator.embed.weight" in weights else None
        if rows is not None and rows != config.n_tokens + 1:
            raise InputError(
                f"{folder}: n_tokens={config.n_tokens} in config.json needs {config.n_tokens + 1} rows of "
                f"estimator.embed.weight, but model.safetensors has {rows}: both files must be of one model"
            )
        decoder = cls(config)
        fill(decoder, weights, folder)
        return decoder.eval()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """`dtype` torch.float16 halves the file; loading converts back."""
        save_folder(folder, asdict(self.config), self, dtype)


def scored_frames(lengths: Tensor, context: Tensor) -> Tensor:
    """1 where there is a mel to predict: (B,) lengths and (B, 1, M) context -> (B, 1, M)."""
    inside = torch.arange(context.shape[-1], device=lengths.device) < lengths[:, None]
    return inside[:, None].float() * (1 - context)


def _check_sampling(steps: int, solver: str, temperature: float) -> None:
    if steps < 1:
        raise InputError(f"steps={steps}: the decoder needs at least 1")
    if solver not in get_args(Solver):
        raise InputError(f"solver={solver!r}: choose one of {', '.join(get_args(Solver))}")
    if temperature < 0:
        raise InputError(f"temperature={temperature}: it scales the noise and must not be negative")
