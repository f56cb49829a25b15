"""BigVGAN's fused activation: compiled for the GPU at hand, and tried before it is trusted."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from subprocess import SubprocessError
from types import ModuleType

import torch

KERNEL = "anti_alias_activation_cuda"
TOLERANCE = 1e-3  # of the trial's values of about 1; the kernel is compiled with fast mathematics


@cache
def why_no_fused_activation() -> str | None:
    """Compile the kernel and compare it with the plain activation; None if it serves, else the reason.

    Needs a CUDA device, its compiler `nvcc`, a C++ compiler and `ninja`. Takes a minute the first time.
    """
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    from bigvgan.alias_free_activation.cuda import load

    # The package compiles for two older generations of GPUs only, into its own folder.
    load.load = _compile
    try:
        return _try()
    except (ImportError, OSError, RuntimeError, SubprocessError) as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def _compile() -> ModuleType:
    from bigvgan.alias_free_activation.cuda import load
    from torch.utils import cpp_extension  # looks for a CUDA installation when it is imported

    folder = Path(load.__file__).parent
    module: ModuleType = cpp_extension.load(
        name=KERNEL,
        sources=[str(folder / name) for name in ("anti_alias_activation.cpp", "anti_alias_activation_cuda.cu")],
        extra_cflags=["-O3"],
        extra_cuda_cflags=[
            "-O3",
            "--use_fast_math",
            "-U__CUDA_NO_HALF_OPERATORS__",
            "-U__CUDA_NO_HALF_CONVERSIONS__",
            "--expt-relaxed-constexpr",
            "--expt-extended-lambda",
        ],
    )
    return module


def _try() -> str | None:
    from bigvgan.activations import SnakeBeta
    from bigvgan.alias_free_activation.cuda.activation1d import Activation1d as FusedActivation
    from bigvgan.alias_free_activation.torch.act import Activation1d

    snake = SnakeBeta(8, alpha_logscale=True)
    sound = torch.linspace(-1, 1, 8 * 64, device="cuda").view(1, 8, 64)
    with torch.no_grad():
        plain, fused = (kind(activation=snake).cuda()(sound) for kind in (Activation1d, FusedActivation))
    off = (plain - fused).abs().max().item()
    return None if off < TOLERANCE else f"it differs from the plain activation by {off:.2g}"
