"""Weights in 8 or 4 bits: less memory, and less to read for every new token.

GPUs have package bitsandbytes for it. On a CPU the weights take 8 bits here. Each row of a weight has its own
scale; activations stay as they are (weight-only), so that outliers among them, which large models are known for
(arXiv 2208.07339), cost nothing.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from usdm.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Quantization = Literal["int8", "int4"]
PACKED_ROWS = 4  # up to here the 8-bit kernel is faster than unpacking the weight for an ordinary product


class Int8Linear(nn.Module):
    """(..., in) -> (..., out) with weights of 8 bits; PyTorch's packed kernel where there are few rows."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, bias: nn.Parameter | None = None) -> None:
        """(out, in) int8, and (out,)."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.bfloat16())
        self.bias = bias

    @classmethod
    def of(cls, linear: nn.Linear) -> Int8Linear:
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        return cls((weight / scale[:, None]).round().to(torch.int8), scale, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) <= PACKED_ROWS:
            product = torch._weight_int8pack_mm(rows.bfloat16(), self.weight, self.scale).to(x.dtype)
        else:
            product = F.linear(rows, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return (product if self.bias is None else product + self.bias).view(*x.shape[:-1], -1)


def quantize_to_int8(model: PreTrainedModel) -> None:
    """Put `Int8Linear` in place of every linear layer but the output head."""
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and child is not head:
                setattr(module, name, Int8Linear.of(child))


def floats_in_single_precision(model: PreTrainedModel) -> None:
    """What was not quantized in float32, which a CPU computes fastest."""
    for parameter in model.parameters():
        parameter.data = parameter.data.float()


def check_quantization(quantization: str, on_cpu: bool) -> None:
    """Raises InputError, with the way out, if weights cannot be quantized so."""
    if quantization not in get_args(Quantization):
        raise InputError(f"quantization={quantization!r}: there are {', '.join(get_args(Quantization))}, or none")
    if on_cpu and quantization == "int4":
        raise InputError("quantization='int4': 4 bits need a GPU; take 'int8' on a CPU, or device='cuda'")
    if not on_cpu and find_spec("bitsandbytes") is None:
        raise InputError(
            f"quantization={quantization!r}: on a GPU it needs package bitsandbytes; pip install 'usdm[quantized]'"
        )


def bitsandbytes_config(quantization: Quantization, dtype: torch.dtype) -> Any:
    """For `from_pretrained` on GPUs: LLM.int8() (arXiv 2208.07339), or NF4 (arXiv 2305.14314) computed in `dtype`."""
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
