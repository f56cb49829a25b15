"""Where the yaml files lie."""

from __future__ import annotations

from pathlib import Path

from usdm.types import InputError


def config_folder() -> Path:
    """`conf/`: beside the package in a source tree, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "experiment").is_dir():
            return folder
    raise InputError(f"conf/ lies neither beside nor inside {package}: install usdm again")
