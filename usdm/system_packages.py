"""The Debian packages that something here wants: `system_packages.toml` is the one list of them."""

from __future__ import annotations

import ctypes
import shutil
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIST = Path(__file__).with_name("system_packages.toml")


@dataclass(frozen=True)
class SystemPackage:
    """One Debian package; one of `library`, `command` and `path` tells whether it is there."""

    name: str
    reason: str
    wanted_by: str
    library: str | None = None
    command: str | None = None
    path: str | None = None
    non_free: bool = False
    tests: bool = False

    @property
    def is_there(self) -> bool:
        if self.library is not None:
            return _loads(self.library)
        return shutil.which(self.command) is not None if self.command else Path(self.path or "").exists()


@cache
def system_packages() -> dict[str, SystemPackage]:
    """Every package of the list by name, in the list's order."""
    entries = tomllib.loads(LIST.read_text(encoding="utf-8"))
    return {name: SystemPackage(name, **facts) for name, facts in entries.items()}


def install(*names: str) -> str:
    """How a message tells the user to install packages of the list. Raises KeyError for one that is not on it."""
    non_free = any(system_packages()[name].non_free for name in names)
    where = " (in Debian's non-free)" if non_free else ""
    return f"install the Debian package{'s' if len(names) > 1 else ''} {' and '.join(names)}{where}"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
