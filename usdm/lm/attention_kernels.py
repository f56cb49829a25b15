"""Which attention kernels of `transformers` compute packed rows rightly on a device: compared once, on a small model.

The plain one computes a packed row as a dense matrix under a mask, 8,192 x 8,192 for a published row; the others skip
what lies outside a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

PLAIN = "sdpa"
SKIPPING = ("flash_attention_3", "flash_attention_2", "flex_attention")  # the fastest first
LENGTHS = (70, 130)  # of the sequences in a row
# Relative, of logits. bfloat16 is off by less than 0.01 there; a row whose sequences see each other by more than 0.2.
TOLERANCE = 0.05


def fastest_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> str:
    """For packed rows, of those that serve."""
    return next((kernel for kernel in SKIPPING if why_not(kernel, device, dtype, head_size) is None), PLAIN)


@lru_cache
def why_not(kernel: str, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """Why a kernel does not serve there, or None if it does. Arithmetic is in `dtype`."""
    try:
        error = packed_error(kernel, device, dtype, head_size)
    except Exception as failure:  # of a package that is not there, a compiler, a card that is too old
        return (str(failure).strip() or type(failure).__name__).splitlines()[0]
    return None if error < TOLERANCE else f"its logits are off by {error:.0%}"


@torch.no_grad()
def packed_error(kernel: str, device: torch.device, dtype: torch.dtype, head_size: int) -> float:
    """How far logits of a packed row are off those of each sequence alone in float32, relative to these."""
    random = torch.Generator().manual_seed(0)
    sequences = [torch.randint(97, (length,), generator=random) for length in LENGTHS]
    plain, asked = (_model(name, device, head_size) for name in ("eager", kernel))
    expected = torch.cat([_logits(plain, [sequence], device) for sequence in sequences])
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        found = _logits(asked, sequences, device)
    return float((found - expected).norm() / expected.norm())


def _model(kernel: str, device: torch.device, head_size: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "mistral",
        vocab_size=97,
        hidden_size=2 * head_size,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head_size,
        sliding_window=None,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel)
    return model.to(device).eval()


def _logits(model: Any, sequences: Sequence[Tensor], device: torch.device) -> Tensor:
    """(L, V) float32 of sequences packed into one row."""
    ids = torch.cat([*sequences])[None].to(device)
    positions = torch.cat([torch.arange(len(sequence)) for sequence in sequences])[None].to(device)
    logits: Tensor = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    return logits.float()
