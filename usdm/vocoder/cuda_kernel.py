"""BigVGAN's fused activation: compiled for the GPU at hand, and tried before it is trusted.

Its CUDA source is that of the package `bigvgan`, which is not imported.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from subprocess import SubprocessError

import torch

from usdm.vocoder.bigvgan_generator import AntiAliasedSnake, BigVGANSettings, FusedActivation

KERNEL = "anti_alias_activation_cuda"
SOURCES = ("anti_alias_activation.cpp", "anti_alias_activation_cuda.cu")
TOLERANCE = 1e-3  # of the trial's values of about 1; the kernel is compiled with fast mathematics


@cache
def why_no_fused_activation() -> str | None:
    """Compile the kernel and compare it with the plain activation; None if it serves, else the reason.

    Needs a CUDA device, its compiler `nvcc`, a C++ compiler, `ninja`, and the package `bigvgan` (extra `bigvgan`).
    Takes a minute the first time.
    """
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    if find_spec("bigvgan") is None:
        return "the package bigvgan, which has its source, is not installed"
    try:
        return _try()
    except (ImportError, OSError, RuntimeError, SubprocessError) as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


@cache
def fused_activation() -> FusedActivation:
    """(B, C, T) sound, the two filters, and the logarithms of alpha and beta -> (B, C, T)."""
    from torch.utils import cpp_extension  # looks for a CUDA installation when it is imported

    package = find_spec("bigvgan")
    assert package is not None and package.origin is not None, "why_no_fused_activation() was asked first"
    # The package's own loader compiles for two older generations of GPUs only, into its own folder.
    folder = Path(package.origin).parent / "alias_free_activation" / "cuda"
    module = cpp_extension.load(
        name=KERNEL,
        sources=[str(folder / name) for name in SOURCES],
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
    kernel: FusedActivation = module.forward
    return kernel


def _try() -> str | None:
    settings = BigVGANSettings(
        num_mels=80,
        upsample_initial_channel=16,
        upsample_rates=(2,),
        upsample_kernel_sizes=(4,),
        resblock="1",
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
        activation="snakebeta",
        snake_logscale=True,
    )
    activation = AntiAliasedSnake(8, settings).cuda()
    sound = torch.linspace(-1, 1, 8 * 64, device="cuda").view(1, 8, 64)
    with torch.no_grad():
        plain = activation(sound)
        activation.fused = fused_activation()
        fused = activation(sound)
    off = (plain - fused).abs().max().item()
    return None if off < TOLERANCE else f"it differs from the plain activation by {off:.2g}"
