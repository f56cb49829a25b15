"""Attention with symmetric ALiBi (arXiv 2108.12409) over rows of any lengths, and no large bias in memory.

A bias for all heads, queries and keys is the fastest while it is small. For 16 replies of 30 s with guidance it would
take 6.9 GB in bfloat16. There a GPU adds it score by score (flex attention, arXiv 2412.05496), where a comparison shows
once that it can; elsewhere rows of one length go together, and a block of queries at a time.

Shapes: B batch, H heads, L positions (the time, then the frames), D head size.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

BIAS_BYTES = 64 * 2**20  # the most that a bias may take
# Of flex attention's output against the whole bias', relative: bfloat16 has 8 bits, float32 is computed in TF32.
TOLERANCE = 0.02

logger = logging.getLogger(__name__)


class Alibi:
    """Of one batch: made once, and used by all layers and all evaluations."""

    def __init__(self, num_heads: int, lengths: Tensor, frames: int) -> None:
        """`lengths` (B,) of rows padded to `frames`, in frames."""
        self.slopes = torch.tensor(_slopes(num_heads), device=lengths.device)  # (H,)
        self.ends = lengths + 1  # (B,) positions
        self.length = frames + 1
        self._rows: defaultdict[int, list[int]] = defaultdict(list)  # by their ends
        for row, end in enumerate(self.ends.tolist()):
            self._rows[end].append(row)
        self._is_padded = [*self._rows] != [self.length]
        self._biases: dict[tuple[torch.dtype, bool], Tensor] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """(B, H, L, D) each -> (B, H, L, D), of no meaning in padding."""
        rows = len(query) if self._is_padded else 1
        if rows * self._bias_bytes(query, self.length) <= BIAS_BYTES:
            bias = self._bias(query.dtype, self._is_padded)
            return functional.scaled_dot_product_attention(query, key, value, bias, dropout)
        if not dropout and query.is_cuda and flex_serves(query.device, query.dtype, query.shape[-1]):
            return flex(query, key, value, self.slopes, self.ends)
        if not self._is_padded:
            return self._of_one_length(query, key, value, dropout)
        mixed = torch.zeros_like(query)
        for end, rows_of_it in self._rows.items():
            queries, keys, values = (states[rows_of_it, :, :end] for states in (query, key, value))
            mixed[rows_of_it, :, :end] = self._of_one_length(queries, keys, values, dropout)
        return mixed

    def _of_one_length(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Without padding, (B', H, L', D): a block of queries at a time.

        With gradients all at once, by a bias that all layers and rows share: each layer would keep every block's.
        """
        attention, end = functional.scaled_dot_product_attention, query.shape[2]
        if torch.is_grad_enabled():
            return attention(query, key, value, self._bias(query.dtype, False)[..., :end, :end], dropout)
        size = max(1, BIAS_BYTES * end // self._bias_bytes(query, end))
        blocks = []
        for start in range(0, end, size):
            queries = query[:, :, start : start + size]
            bias = symmetric_alibi(self.slopes, end, range(start, start + queries.shape[2])).to(query.dtype)
            blocks.append(attention(queries, key, value, bias[None], dropout))
        return torch.cat(blocks, dim=2)

    def _bias(self, dtype: torch.dtype, is_padded: bool) -> Tensor:
        """(1, H, L, L), or (B, H, L, L) without what is padding."""
        if (dtype, is_padded) not in self._biases:
            bias = symmetric_alibi(self.slopes, self.length).to(dtype)[None]
            if is_padded:
                inside = torch.arange(self.length, device=bias.device) < self.ends[:, None]
                bias = bias.masked_fill(~inside[:, None, None, :], float("-inf"))
            self._biases[dtype, is_padded] = bias
        return self._biases[dtype, is_padded]

    def _bias_bytes(self, query: Tensor, length: int) -> int:
        return len(self.slopes) * length**2 * query.element_size()


def symmetric_alibi(slopes: Tensor, length: int, queries: range | None = None) -> Tensor:
    """Penalties on distance, forwards and backwards: (H, queries, length), of all queries or some.

    Position 0 is not a place in time, so attention to it costs nothing.
    """
    queries = range(length) if queries is None else queries
    places = torch.arange(queries.start, queries.stop, device=slopes.device)
    distance = (torch.arange(length, device=slopes.device) - places[:, None]).abs().to(slopes.dtype)
    distance[:, 0] = 0
    return -slopes[:, None, None] * distance


def flex(query: Tensor, key: Tensor, value: Tensor, slopes: Tensor, ends: Tensor) -> Tensor:
    """The same as by a bias, which is computed score by score. Without dropout."""

    def biased(score: Tensor, row: Tensor, head: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
        distance = torch.where(key_at == 0, 0, (query_at - key_at).abs())
        return torch.where(key_at < ends[row], score - slopes[head] * distance, float("-inf"))

    mixed: Tensor = _compiled_flex()(query, key, value, score_mod=biased)
    return mixed


@lru_cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention  # with the compiler, which takes long to import

    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled


@lru_cache
def flex_serves(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether flex attention gives there what a bias gives, gradients too; compared once, on a small input."""
    try:
        error = flex_error(device, dtype, head_size)
    except Exception as failure:  # of a compiler, whatever it is: there is another way
        logger.warning("flex attention does not work here (%s): long replies are decoded in blocks", failure)
        return False
    if not error < TOLERANCE:
        logger.warning("flex attention is off by %.2g here: long replies are decoded in blocks", error)
    return error < TOLERANCE


@torch.inference_mode(False)
@torch.enable_grad()
def flex_error(device: torch.device, dtype: torch.dtype, head_size: int) -> float:
    """Of its output and gradients (it has none on a CPU), relative to those of attention with a bias in float32."""
    random = torch.Generator().manual_seed(0)
    alibi = Alibi(4, torch.tensor([199, 130], device=device), 199)
    inside = (torch.arange(alibi.length, device=device) < alibi.ends[:, None])[:, None, :, None]
    given = torch.randn(3, 2, 4, alibi.length, head_size, generator=random).to(device, dtype)

    def results(states: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        if device.type == "cpu":
            return (attend(*states) * inside).double()
        states = states.clone().requires_grad_()
        mixed = attend(*states) * inside
        mixed.square().sum().backward()
        assert states.grad is not None
        return torch.cat([mixed.detach()[None], states.grad]).double()

    expected = results(given.float(), alibi.attend)
    found = results(given, lambda query, key, value: flex(query, key, value, alibi.slopes, alibi.ends))
    return float((found - expected).norm() / expected.norm())


def _slopes(num_heads: int) -> list[float]:
    """Geometric from 2^(-8/n); where n is no power of two, the rest are every other of the next one's."""
    lower = 2 ** int(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (head + 1) / lower) for head in range(lower)]
    if lower == num_heads:
        return slopes
    return slopes + _slopes(2 * lower)[::2][: num_heads - lower]
