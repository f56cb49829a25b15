"""The machine that figures hold for: what it is, what of its memory is used, and how fast that memory is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from usdm.metrics.facts import installed_version

PACKAGES = ("usdm", "torch", "transformers", "tokenizers", "numpy", "vocos")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what Linux wants written to `clear_refs` to begin a new peak of resident memory
MEASURED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}  # beyond every cache
PASSES = 5


@dataclass
class Peak:
    """Most memory in use during a stretch of work; None where the system does not tell."""

    resident: int | None = None  # bytes of main memory
    cuda: int | None = None  # bytes allocated on the GPU


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware and versions."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: installed_version(package) for package in PACKAGES},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_memory": properties.total_memory, "cuda": torch.version.cuda}
    return found


def processor() -> str:
    """The CPU's model name as the system has it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Wait for what was started on the device, so that a clock that is read next has seen its end."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Filled in at the end of the block."""
    peak = Peak()
    resettable = STATUS.is_file() and os.access(CLEAR, os.W_OK)
    if resettable:
        CLEAR.write_text(RESET_PEAK, encoding="ascii")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if resettable:
        lines = STATUS.read_text(encoding="ascii").splitlines()
        peak.resident = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    if device.type == "cuda":
        peak.cuda = torch.cuda.max_memory_allocated(device)


def memory_bandwidth(device: torch.device) -> float:
    """Bytes a second that one large read or one large copy (read and written) moves, whichever is more.

    With the threads that torch has at the time; the best of a few passes.
    """
    count = MEASURED_BYTES.get(device.type, MEASURED_BYTES["cpu"]) // 4
    source = torch.ones(count, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    moved = source.nbytes
    read = min(_seconds(lambda: source.sum(), device) for _ in range(PASSES))
    copied = min(_seconds(lambda: target.copy_(source), device) for _ in range(PASSES))
    return max(moved / read, 2 * moved / copied)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start
