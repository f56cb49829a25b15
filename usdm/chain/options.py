"""How a system is loaded: where to, in which precision, with which kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from usdm.types import InputError

Quantization = Literal["int8", "int4"]
CPU_QUANTIZATION = "int8"  # the only one that needs no GPU


@dataclass(frozen=True)
class LoadOptions:
    """Of all parts. What is None is decided by the device; see `settled`."""

    device: str = "cpu"
    dtype: torch.dtype | None = None  # of the language model
    device_map: str | None = None  # "auto" spreads the language model over all devices; the rest stays on `device`
    quantization: Quantization | None = None  # of the language model's linear layers
    attention: str | None = None  # the language model's: "sdpa", "flash_attention_2", ...
    decoder_dtype: torch.dtype | None = None
    vocoder_cuda_kernel: bool = False  # BigVGAN's fused activation, compiled on first use

    @property
    def on_cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def settled(self) -> LoadOptions:
        """With what the device decides: bfloat16 for language model and decoder on a GPU.

        On a CPU the language model keeps its stored precision (see `usdm.lm.load_model`), the decoder has float32.
        """
        if not self.on_cuda:
            return self
        return replace(self, dtype=self.dtype or torch.bfloat16, decoder_dtype=self.decoder_dtype or torch.bfloat16)

    def check(self) -> None:
        """Raises InputError for a device that is not there, or options that it cannot do."""
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"device={self.device} cannot be used ({reason}): take device=cpu") from error
        if self.quantization is not None and self.quantization not in get_args(Quantization):
            raise InputError(f"quantization={self.quantization}: there are {', '.join(get_args(Quantization))}")
        if self.quantization is not None and self.quantization != CPU_QUANTIZATION and not self.on_cuda:
            raise InputError(
                f"quantization={self.quantization} on device={self.device}: it needs a GPU; "
                f"take quantization={CPU_QUANTIZATION}"
            )
        if self.vocoder_cuda_kernel and not self.on_cuda:
            raise InputError(f"vocoder_cuda_kernel=true on device={self.device}: the kernel needs device=cuda")
