"""How a system is loaded: where to, in which precision, with which kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from usdm.types import InputError

Quantization = Literal["int8", "int4"]
CPU_QUANTIZATION = "int8"  # the only one that needs no GPU

# Parameters of a language model from which on a GPU answers sooner, where nobody says which device to take. An
# estimate, not measured yet: a reply is about a hundred tokens, and for each a CPU reads all weights, which takes 10 to
# 20 ms of 0.4 GB of float32, a second or two in all; a GPU needs half a millisecond for each, and that second or two
# once for its libraries and for capturing its graphs.
SMALLEST_ON_GPU = 100_000_000


@dataclass(frozen=True)
class LoadOptions:
    """Of all parts. What is None is decided by the model's size and the device; see `settled`."""

    device: str | None = None
    dtype: torch.dtype | None = None  # of the language model
    device_map: str | None = None  # "auto" spreads the language model over all devices; the rest stays on `device`
    quantization: Quantization | None = None  # of the language model's linear layers
    attention: str | None = None  # the language model's: "sdpa", "flash_attention_2", ...
    decoder_dtype: torch.dtype | None = None
    vocoder_cuda_kernel: bool = False  # BigVGAN's fused activation, compiled on first use

    @property
    def place(self) -> torch.device:
        """The device, once it is settled."""
        assert self.device is not None
        return torch.device(self.device)

    @property
    def on_cuda(self) -> bool:
        return self.device is not None and self.device.partition(":")[0] == "cuda"

    def settled(self, parameters: int) -> LoadOptions:
        """With a device, and what the device decides, for a language model of so many parameters.

        The device is a GPU where there is one and the model is not too small to gain by it, or is to be spread over
        devices. On a GPU language model and decoder have bfloat16; on a CPU the language model keeps its stored
        precision (see `usdm.lm.load_model`), the decoder has float32.
        """
        if self.device is None:
            gains = parameters >= SMALLEST_ON_GPU or self.device_map is not None
            device = "cuda" if gains and torch.cuda.is_available() else "cpu"
            return replace(self, device=device).settled(parameters)
        if not self.on_cuda:
            return self
        return replace(self, dtype=self.dtype or torch.bfloat16, decoder_dtype=self.decoder_dtype or torch.bfloat16)

    def check(self) -> None:
        """Raises InputError for a device that is not there, or options that it cannot do.

        Where the device is not settled, only what no device here could do is refused.
        """
        if self.quantization is not None and self.quantization not in get_args(Quantization):
            raise InputError(f"quantization={self.quantization}: there are {', '.join(get_args(Quantization))}")
        if self.device is not None:
            try:
                torch.empty(0, device=self.device)
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"device={self.device} cannot be used ({reason}): take device=cpu") from error
        elif torch.cuda.is_available():
            return
        if self.on_cuda:
            return
        device = self.device or "cpu"
        if self.quantization not in (None, CPU_QUANTIZATION):
            raise InputError(
                f"quantization={self.quantization} on device={device}: it needs a GPU; take device=cuda, or "
                f"quantization={CPU_QUANTIZATION}"
            )
        if self.vocoder_cuda_kernel:
            raise InputError(f"vocoder_cuda_kernel=true on device={device}: the kernel needs device=cuda")
