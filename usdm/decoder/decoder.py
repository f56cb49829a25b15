"""The unit decoder: units in, log-mel spectrogram out, in a reference recording's voice if one is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from usdm.audio import MelSettings
from usdm.checkpoint import NoInitialValues, fill, read_config, read_weights, save_folder
from usdm.decoder.alibi import Alibi
from usdm.decoder.estimator import VelocityEstimator
from usdm.decoder.flow_matching import (
    ESTIMATES,
    Estimate,
    Solver,
    Velocity,
    integrate,
    masked_mean,
    path,
    path_velocity,
    velocity_to,
)
from usdm.decoder.frames import units_per_frame
from usdm.decoder.infill import InfillRequest, MelPrompt
from usdm.decoder.sampling import check_decoding, draw_seed, seeded
from usdm.types import InputError, ReferenceVoice


@dataclass(frozen=True)
class UnitDecoderConfig:
    """`config.json`, key by key. The last four are ours, with the published values by default."""

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
    unit_rate: float = 50  # Hz
    mel_mean: float = -5.5419  # of log-mels of speech
    mel_std: float = 2.1575
    estimate: Estimate = "velocity"  # what the estimator gives; "data": the mel, from which the velocity follows

    def __post_init__(self) -> None:
        if self.estimate not in ESTIMATES:
            raise InputError(f"a decoder with estimate={self.estimate!r}: choose one of {', '.join(ESTIMATES)}")


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
    def unit_rate(self) -> float:
        """Hz."""
        return self.config.unit_rate

    def normalise(self, mel: Tensor) -> Tensor:
        return (mel - self.config.mel_mean) / self.config.mel_std

    def denormalise(self, mel: Tensor) -> Tensor:
        return mel * self.config.mel_std + self.config.mel_mean

    def estimate_error(
        self, units: Tensor, mel: Tensor, lengths: Tensor, time: Tensor, noise: Tensor, context: Tensor
    ) -> Tensor:
        """(B, n_feats, M): how far the estimated velocity, or mel, is off, everywhere.

        Args:
            units: (B, M) int64, per frame; K where they are dropped.
            mel: (B, n_feats, M) normalised.
            lengths: (B,) frames.
            time: (B,) in [0, 1].
            noise: (B, n_feats, M) standard normal.
            context: (B, 1, M), 1 where the mel is given.
        """
        sigma_min = self.config.sigma_min
        state = path(noise, mel, time[:, None, None], sigma_min)
        target = mel if self.config.estimate == "data" else path_velocity(noise, mel, sigma_min)
        return self.estimator(units, state, mel * context, time, lengths) - target

    def loss(self, units: Tensor, mel: Tensor, lengths: Tensor, time: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """Flow matching loss: mean squared error of frames that are neither context nor padding.

        Arguments as for `estimate_error`.
        """
        error = self.estimate_error(units, mel, lengths, time, noise, context)
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

    def generate_batch(
        self,
        units: Sequence[Tensor],
        *,
        reference: ReferenceVoice | None = None,
        references: Sequence[ReferenceVoice | None] | None = None,
        steps: int = 50,
        solver: Solver = "heun",
        guidance: float = 1.0,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Sequences (U,) int64 of any lengths -> (n_feats, M) log-mels, not normalised.

        A sequence sounds the same alone and in a batch.

        Args:
            reference: a recording whose voice to speak in, for all sequences.
            references: one for each sequence instead, or None where there is none.
            steps: evaluations of the estimator (each of twice the batch under guidance).
            guidance: how far to go beyond the conditional velocity, away from the unconditional one.
            temperature: scale of the initial noise. 0 follows the one path that starts from zeros.
            generator: source of the noise. Its next seed is every sequence's own.
            seeds: one for each sequence instead: [5] is the same as a generator with the manual seed 5.

        Raises:
            InputError: a sequence without units, units outside 0..K-1, settings out of range, or
                references or seeds that are not as many as the sequences.
        """
        if not units:
            return []
        if references is None:
            references = [reference] * len(units)
        own_seeds = [draw_seed(generator)] * len(units) if seeds is None else [seeded(seed) for seed in seeds]
        for name, given in (("references", references), ("seeds", own_seeds)):
            if len(given) != len(units):
                raise InputError(f"{len(given)} {name} for {len(units)} sequences of units: give one for each")
        requests = []
        for row, voice, seed in zip(units, references, own_seeds, strict=True):
            self.check_units(row)
            prompt_units, prompt_mel = self.prompt(voice)
            frames = torch.cat([prompt_units, units_per_frame(row.cpu(), self.unit_rate, self.mel)])
            noise = torch.randn(len(frames), self.config.n_feats, generator=torch.Generator().manual_seed(seed))
            requests.append(InfillRequest(frames, prompt_mel, noise, torch.Generator().manual_seed(seed + 1)))
        filled = self.infill(requests, steps=steps, solver=solver, guidance=guidance, temperature=temperature)
        return [self.denormalise(mel) for mel in filled]

    @torch.no_grad()
    def infill(
        self, requests: Sequence[InfillRequest], *, steps: int, solver: Solver, guidance: float, temperature: float
    ) -> list[Tensor]:
        """(n_feats, M - P) normalised log-mel of each request's unknown frames. Arguments as for `generate_batch`."""
        check_decoding(steps, solver, temperature)
        if not any(request.frames for request in requests):  # units may be shorter than a frame
            return [request.known for request in requests]
        lengths = torch.tensor([request.frames for request in requests], device=self.device)
        frames = pad_sequence([request.units for request in requests], batch_first=True).to(self.device)  # (B, M)
        noise = pad_sequence([request.noise for request in requests], batch_first=True).transpose(1, 2).to(self.device)
        known = MelPrompt(requests, temperature, self.config.sigma_min)
        context = nn.functional.pad(known.mel, (0, frames.shape[1] - known.mel.shape[-1]))
        velocity = self.guided_velocity(frames, context, lengths, guidance)
        mels = integrate(velocity, temperature * noise, steps, solver, known.constrain)
        return [
            mel[:, start : request.frames] for mel, start, request in zip(mels, known.lengths, requests, strict=True)
        ]

    def guided_velocity(self, frames: Tensor, context: Tensor, lengths: Tensor, guidance: float) -> Velocity:
        """v + guidance (v - v without units and context), as a function of state and time alone.

        `frames` (B, M) units per frame, `context` (B, n_feats, M) normalised mel, zeros where it is not
        given, `lengths` (B,) frames.
        """
        if guidance == 0:
            alibi = self.estimator.alibi(lengths, frames.shape[1])
            return lambda state, time: self._velocity(frames, state, context, time, lengths, alibi)
        both_frames = torch.cat([frames, torch.full_like(frames, self.num_units)])
        both_contexts = torch.cat([context, torch.zeros_like(context)])
        both_lengths = lengths.repeat(2)
        both_alibi = self.estimator.alibi(both_lengths, frames.shape[1])

        def velocity(state: Tensor, time: Tensor) -> Tensor:
            states, times = state.repeat(2, 1, 1), time.repeat(2)
            both = self._velocity(both_frames, states, both_contexts, times, both_lengths, both_alibi)
            conditional, unconditional = both.chunk(2)
            return conditional + guidance * (conditional - unconditional)

        return velocity

    def _velocity(
        self, frames: Tensor, state: Tensor, context: Tensor, time: Tensor, lengths: Tensor, alibi: Alibi
    ) -> Tensor:
        estimate = self.estimator(frames, state, context, time, lengths, alibi)
        if self.config.estimate == "data":
            return velocity_to(estimate, state, time, self.config.sigma_min)
        return estimate

    def prompt(self, reference: ReferenceVoice | None) -> tuple[Tensor, Tensor]:
        """Units per frame (P,) and normalised mel (n_feats, P) of the reference; P is 0 without one.

        Raises InputError for units or a mel of another kind than the decoder's.
        """
        if reference is None:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(self.config.n_feats, 0, device=self.device)
        self.check_units(reference.units)
        if reference.mel.shape[0] != self.config.n_feats:
            raise InputError(
                f"the reference voice's mel has {reference.mel.shape[0]} bands, this decoder "
                f"{self.config.n_feats}: make it with the decoder's `mel` settings"
            )
        units = units_per_frame(reference.units.cpu(), self.unit_rate, self.mel)
        length = min(len(units), reference.mel.shape[-1])
        return units[:length], self.normalise(reference.mel[:, :length].to(self.device, torch.float32))

    def check_units(self, units: Tensor) -> None:
        """Raises InputError for what is no sequence of this decoder's units."""
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
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype | None = None) -> UnitDecoder:
        """Read the published layout or what `save_pretrained` wrote.

        `dtype` is that of the network, None is float32; noise and integration are float32 in any case, and
        bfloat16 is meant for CUDA devices.

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
        with NoInitialValues():
            decoder = cls(config)
        fill(decoder, weights, folder)
        return decoder.to(dtype).eval()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """`dtype` torch.float16 halves the file; loading converts back."""
        save_folder(folder, asdict(self.config), self, dtype)


def scored_frames(lengths: Tensor, context: Tensor) -> Tensor:
    """1 where there is a mel to predict: (B,) lengths and (B, 1, M) context -> (B, 1, M)."""
    inside = torch.arange(context.shape[-1], device=lengths.device) < lengths[:, None]
    return inside[:, None].float() * (1 - context)
