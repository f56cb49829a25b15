"""The velocity estimator of the unit decoder: Voicebox's Transformer (arXiv 2306.15687) as USDM has it.

Post-norm layers with ALiBi, U-Net skips from the first half of the layers to the second, convolutions for
positions, and the time as one extra position before the first frame, at no distance from any other. Parameter
names are those of the published checkpoints. Shapes: B batch, M frames, L = M + 1 positions, H hidden size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from usdm.decoder.alibi import Alibi

TIME_SCALE = 1000.0  # flow time 0..1 as the positions of a sinusoidal embedding
LONGEST_PERIOD = 10_000.0


class Attention(nn.Module):
    """Self-attention that heeds distance."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor, alibi: Alibi) -> Tensor:
        """(B, L, H) -> (B, L, H)."""
        query, key, value = (
            projection(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = alibi.attend(query, key, value, self.dropout if self.training else 0.0)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int, inner_dropout: float, dropout: float) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(hidden_size, intermediate_size)
        self.intermediate_dropout = nn.Dropout(inner_dropout)
        self.output_dense = nn.Linear(intermediate_size, hidden_size)
        self.output_dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, H) -> (B, L, H)."""
        inner = self.intermediate_dropout(functional.gelu(self.intermediate_dense(hidden)))
        return self.output_dropout(self.output_dense(inner))


class EstimatorLayer(nn.Module):
    """Attention and feed-forward, each normalised after its residual sum."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_heads: int,
        attention_dropout: float,
        activation_dropout: float,
        hidden_dropout: float,
    ) -> None:
        super().__init__()
        self.attention = Attention(hidden_size, num_heads, attention_dropout)
        self.dropout = nn.Dropout(hidden_dropout)
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = FeedForward(hidden_size, intermediate_size, activation_dropout, hidden_dropout)
        self.final_layer_norm = nn.LayerNorm(hidden_size)

    def forward(self, hidden: Tensor, alibi: Alibi) -> Tensor:
        """(B, L, H) -> (B, L, H)."""
        hidden = self.layer_norm(hidden + self.dropout(self.attention(hidden, alibi)))
        return self.final_layer_norm(hidden + self.feed_forward(hidden))


class PositionalConvolution(nn.Module):
    """Grouped convolution over time that tells positions apart."""

    def __init__(self, hidden_size: int, width: int, groups: int) -> None:
        super().__init__()
        conv = nn.Conv1d(hidden_size, hidden_size, width, padding=width // 2, groups=groups)
        self.conv = weight_norm(conv, dim=2)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, H) -> (B, L, H)."""
        length = hidden.shape[1]  # an even width gives one position too many
        return functional.gelu(self.conv(hidden.transpose(1, 2))[..., :length]).transpose(1, 2)


class VelocityEstimator(nn.Module):
    """Velocity of a noisy mel given units and a context mel.

    `num_embeddings` is the number of units plus one: the last row says that no units are given.
    """

    def __init__(
        self,
        *,
        num_mels: int,
        num_embeddings: int,
        embedding_dim: int,
        hidden_size: int,
        intermediate_size: int,
        num_heads: int,
        num_layers: int,
        convpos_width: int,
        convpos_groups: int,
        convpos_depth: int,
        attention_dropout: float,
        activation_dropout: float,
        hidden_dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.hidden_size = hidden_size
        self.embed = nn.Embedding(num_embeddings, embedding_dim)
        nn.init.normal_(self.embed.weight, std=embedding_dim**-0.5)  # `forward` scales it back to 1
        self.proj_in = nn.Conv1d(embedding_dim + 2 * num_mels, hidden_size, kernel_size=1)
        self.pos_conv_embeds = nn.ModuleList(
            PositionalConvolution(hidden_size, convpos_width, convpos_groups) for _ in range(convpos_depth)
        )
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(hidden_dropout)
        self.layers = nn.ModuleList(
            EstimatorLayer(
                hidden_size,
                intermediate_size,
                num_heads,
                attention_dropout,
                activation_dropout,
                hidden_dropout,
            )
            for _ in range(num_layers)
        )
        self.skip_connections_layers = nn.ModuleList(
            nn.Linear(2 * hidden_size, hidden_size) for _ in range(num_layers // 2)
        )
        self.proj_out = nn.Conv1d(hidden_size, num_mels, kernel_size=1)

    def forward(
        self, units: Tensor, noisy: Tensor, context: Tensor, time: Tensor, lengths: Tensor, alibi: Alibi | None = None
    ) -> Tensor:
        """Velocity (B, num_mels, M) in the precision of `noisy`, 0 beyond each length.

        Args:
            units: (B, M) int64, per frame.
            noisy: (B, num_mels, M), the state at `time`.
            context: (B, num_mels, M), the mel where it is given, else 0.
            time: (B,) in [0, 1].
            lengths: (B,) frames.
            alibi: what `alibi` gives for these lengths, for callers that come back with the same ones.
        """
        if alibi is None:
            alibi = self.alibi(lengths, units.shape[1])
        embedded = self.embed(units).transpose(1, 2) * math.sqrt(self.embed.embedding_dim)
        given = torch.cat([embedded, noisy.to(embedded), context.to(embedded)], dim=1)
        frames = self.proj_in(given).transpose(1, 2)
        hidden = torch.cat([self._embed_time(time)[:, None].to(frames), frames], dim=1)  # (B, L, H)
        inside = _inside(lengths, units.shape[1])[..., None].to(hidden.dtype)

        hidden = self._embed_positions(hidden * inside, inside)
        hidden = self._run_layers(hidden, alibi)
        velocity = self.proj_out((hidden * inside)[:, 1:].transpose(1, 2)) * inside[:, 1:].transpose(1, 2)
        return velocity.to(noisy.dtype)

    def alibi(self, lengths: Tensor, frames: int) -> Alibi:
        """Attention to near positions, and to no padding, in rows of `lengths` (B,) padded to `frames`, in frames."""
        return Alibi(self.num_heads, lengths, frames)

    def _embed_time(self, time: Tensor) -> Tensor:
        """(B,) -> (B, H)."""
        half = self.hidden_size // 2
        steps = torch.arange(half, device=time.device, dtype=torch.float32)
        frequencies = torch.exp(steps * (-math.log(LONGEST_PERIOD) / (half - 1)))
        angles = TIME_SCALE * time[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def _embed_positions(self, hidden: Tensor, inside: Tensor) -> Tensor:
        """(B, L, H), (B, L, 1) -> (B, L, H)."""
        positional = hidden
        for convolution in self.pos_conv_embeds:
            positional = convolution(positional) * inside
        return self.dropout(self.layer_norm(hidden + positional))

    def _run_layers(self, hidden: Tensor, alibi: Alibi) -> Tensor:
        """The input of each layer of the first half goes, in reverse order, to one of the second half."""
        half = len(self.layers) // 2
        kept = []
        for index, layer in enumerate(self.layers):
            if index < half:
                kept.append(hidden)
            else:
                joined = torch.cat([hidden, kept.pop()], dim=-1)
                hidden = self.skip_connections_layers[index - half](joined)
            hidden = layer(hidden, alibi)
        return hidden


def _inside(lengths: Tensor, frames: int) -> Tensor:
    """(B, L): which positions are a row's own; the time comes first."""
    return torch.arange(frames + 1, device=lengths.device) <= lengths[:, None]
