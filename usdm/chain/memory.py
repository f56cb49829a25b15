"""The memory of this machine, as far as a plan needs it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

MEMORY_INFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")  # a container's own limits


@dataclass(frozen=True)
class Memory:
    """Of one device. `free` counts what the system would give back when asked, as its caches of files."""

    device: str
    name: str
    total: int  # bytes
    free: int  # bytes


def device_memory(device: str) -> Memory | None:
    """Memory behind a torch device; None where there is no such device, or the system does not tell."""
    kind = torch.device(device)
    if kind.type == "cuda":
        if (kind.index or 0) >= torch.cuda.device_count():
            return None
        free, total = torch.cuda.mem_get_info(kind)
        return Memory(device, torch.cuda.get_device_name(kind), total, free)
    return main_memory() if kind.type == "cpu" else None


def all_memory() -> Memory | None:
    """RAM and every GPU together: what `device_map=auto` spreads a model over."""
    found = [device_memory(f"cuda:{index}") for index in range(torch.cuda.device_count())] + [main_memory()]
    known = [memory for memory in found if memory is not None]
    if len(known) < len(found):
        return None
    names = " and ".join(memory.name for memory in known)
    return Memory("auto", names, sum(memory.total for memory in known), sum(memory.free for memory in known))


def main_memory() -> Memory | None:
    """RAM, or what a container may have of it. None where the system does not tell (it is read as Linux has it)."""
    if not MEMORY_INFO.is_file():
        return None
    lines = MEMORY_INFO.read_text(encoding="ascii").splitlines()
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    total, free = sizes["MemTotal"], sizes["MemAvailable"]
    limit, used = _group_figure("memory.max"), _group_figure("memory.current")
    if limit is not None and limit < total:
        total, free = limit, min(free, limit - (used or 0))
    return Memory("cpu", f"RAM, {os.cpu_count()} processors", total, free)


def _group_figure(name: str) -> int | None:
    path = CONTROL_GROUP / name
    text = path.read_text(encoding="ascii").strip() if path.is_file() else "max"
    return int(text) if text.isdigit() else None
