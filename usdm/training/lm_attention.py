"""Attention over packed rows: a check that sequences do not see each other, and a way to compute each on its own.

Given `position_ids` that restart with each sequence, `transformers` masks what lies outside a sequence but computes
it all the same. On a CPU, rows of 1,024 ids with sequences of 150 train 1.4 times faster this way, as fast as rows of
256; a GPU has kernels that skip it (see `usdm.lm.attention_kernels`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils.generic import is_flash_attention_requested

from usdm.data.collation import collate_rows
from usdm.data.packing import PackedRow, build_row
from usdm.data.sequences import TrainingSequence
from usdm.lm.attention_kernels import PLAIN, fastest_kernel
from usdm.types import InputError

logger = logging.getLogger(__name__)

PACKED = "packed_sdpa"
CHECKED_LENGTHS = (12, 20)  # of sequences in a row, in ids
# Of what a stranger before a sequence changes in its logits. Where the sequence is kept to itself, tiny models of 15
# kinds have at most 4e-7 in float32 and 0.015 in bfloat16; where it is not, they have 0.38 to 1.
MOST_MIXED = 0.1
# The same, of another text in the stranger's place. Rounding is alike then: Llama has 0.0 in both kinds of floats. An
# untrained XGLM, whose positions outweigh all text, has 2e-4 to 2e-3.
MOST_LEAKED = 1e-5


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    position_ids: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence: (B, H, L, D) queries, (B, G, L, D) keys and values -> (B, L, H, D).

    `position_ids`, (B, L) or (1, L) for all rows, are 0 where a sequence starts, the first of each row included.
    Without dropout.
    """
    batch, heads, length, size = query.shape
    starts = torch.nonzero(position_ids.expand(batch, -1).flatten() == 0)[:, 0].tolist()
    lengths = [end - start for start, end in zip(starts, [*starts[1:], batch * length], strict=True)]

    def sequences(states: Tensor) -> tuple[Tensor, ...]:
        flat = states.transpose(1, 2).reshape(batch * length, states.shape[1], size)
        return tuple(part.transpose(0, 1)[None] for part in flat.split(lengths))

    attended = [
        functional.scaled_dot_product_attention(
            *states, is_causal=True, scale=scaling, enable_gqa=heads != key.shape[1]
        )[0].transpose(0, 1)
        for states in zip(sequences(query), sequences(key), sequences(value), strict=True)
    ]
    return torch.cat(attended).view(batch, length, heads, size), None


AttentionInterface.register(PACKED, packed_attention)


def check_packing(
    model: PreTrainedModel, collate: Callable[[Sequence[PackedRow]], dict[str, Tensor]], device: torch.device
) -> None:
    """Raises InputError if the model or its attention lets packed sequences see each other, or counts their positions
    on, as a small input tells."""
    mixed, is_mixed = _mixed(model, collate, device)
    if is_mixed:
        config = model.config
        raise InputError(
            f"{config.model_type} with attention {config._attn_implementation!r} does not keep sequences apart that "
            f"are packed into one row: their logits differ from those of the sequence alone by {mixed:.1%} of what "
            "text before it changes; try attention=sdpa, or take a language model that heeds position_ids"
        )


def keeps_apart(model: PreTrainedModel) -> bool:
    """Whether rows may be packed for this model, where it lies now; a warning says so where they may not."""
    if is_flash_attention_requested(model.config):  # for a GPU, where the trainer looks at it
        return True
    mixed, is_mixed = _mixed(model, collate_rows, model.device)
    if is_mixed:
        logger.warning(
            "%s does not keep sequences apart that are packed into one row (%.1f%% of what text before it changes): "
            "every sequence has a row of its own, so make rows (max_length) no longer than sequences are",
            model.config.model_type,
            100 * mixed,
        )
    return not is_mixed


@torch.no_grad()
def _mixed(
    model: PreTrainedModel, collate: Callable[[Sequence[PackedRow]], dict[str, Tensor]], device: torch.device
) -> tuple[float, bool]:
    """What packing changes in a sequence's logits, as a share of what text before it does, and if that is too much or
    depends on what the text before it is."""
    random = np.random.default_rng(0)
    ids = [[random.integers(model.config.vocab_size, size=length) for length in CHECKED_LENGTHS] for _ in range(2)]
    swapped = [[ids[1][0], ids[0][1]], [ids[0][0], ids[1][1]]]
    rows = [build_row([_sequence(each) for each in row], sum(CHECKED_LENGTHS), 0) for row in [*ids, *swapped]]
    batch = {name: tensor.to(device) for name, tensor in collate(rows).items() if name != "labels"}

    def logits(*sequences: Any) -> Tensor:
        sequence = torch.from_numpy(np.concatenate(sequences))[None].to(device)
        return model(input_ids=sequence, use_cache=False).logits[0].float()  # (L, V)

    training = model.training
    model.eval()
    wrong = stranger = 0.0
    with torch.compiler.set_stance("force_eager"):  # nothing is compiled for shapes that never come again
        packed = model(**batch, use_cache=False).logits.float().view(len(rows), sum(CHECKED_LENGTHS), -1)
        for (first, second), row in zip(ids, packed[: len(ids)], strict=True):
            alone = logits(second)
            wrong += float((row[len(first) :] - alone).norm())
            stranger += float((logits(first, second)[len(first) :] - alone).norm())
    model.train(training)
    leaked = float((packed[: len(ids)] - packed[len(ids) :])[:, CHECKED_LENGTHS[0] :].norm())
    if not stranger:
        return 0.0, False
    return wrong / stranger, wrong > MOST_MIXED * stranger or leaked > MOST_LEAKED * stranger


def _sequence(ids: Any) -> TrainingSequence:
    return TrainingSequence(ids, ids, np.zeros(len(ids), np.int8))


def use_packed_attention(model: PreTrainedModel, max_length: int, dtype: torch.dtype) -> None:
    """Train with what skips other sequences where it gives the same: of a model with plain SDPA attention.

    On a GPU that is a kernel for arithmetic in `dtype`, of those that a comparison finds to serve.
    """
    config = model.config
    window = getattr(config, "sliding_window", None)
    plain = config._attn_implementation == PLAIN and (window is None or window >= max_length)
    if not plain or getattr(config, "attention_dropout", 0.0) > 0:
        return
    if not torch.cuda.is_available():
        model.set_attn_implementation(PACKED)
        return
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kernel = fastest_kernel(torch.device("cuda", torch.cuda.current_device()), dtype, head_size)
    logger.info("attention over packed rows: %s", kernel)
    model.set_attn_implementation(kernel)
