"""What is trained is held in float32, whatever the precision of the arithmetic.

A bfloat16 number has 8 bits. A weight of 0.02 is some 1e-4 away from its neighbours, so that a step of AdamW at a
learning rate of 2e-5 leaves it where it is, step after step. Source: mixed precision training (arXiv 1710.03740).
"""

from __future__ import annotations

from copy import deepcopy

import torch
from transformers import PreTrainedModel


def hold_in_float32(model: PreTrainedModel, bf16: bool) -> None:
    """Convert, in place, the weights that are trained; and those that are not, where nothing computes in bfloat16.

    With `bf16` autocast, or the policy of FSDP2, makes the products in bfloat16, so weights that an adapter leaves
    alone may stay as they were stored, in half the memory. Weights of whole numbers (quantized ones) stay in any case.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point() and (parameter.requires_grad or not bf16):
            parameter.data = parameter.data.float()
    if not bf16:
        for buffer in model.buffers():
            if buffer.dtype in (torch.float16, torch.bfloat16):
                buffer.data = buffer.data.float()


def frozen_copy(model: PreTrainedModel, bf16: bool) -> PreTrainedModel:
    """The model as it is now, never to be trained, in a precision that is computed in."""
    copy = deepcopy(model).eval().requires_grad_(False)
    hold_in_float32(copy, bf16)
    return copy
