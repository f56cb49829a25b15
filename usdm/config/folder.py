"""Where the yaml files lie."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from usdm.types import InputError


def config_folder() -> Path:
    """`conf/`: beside the package in a source tree, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "experiment").is_dir():
            return folder
    raise InputError(f"conf/ lies neither beside nor inside {package}: install usdm again")


def added_folders(arguments: Sequence[str]) -> list[Path]:
    """The user's own folder of groups, `--config-dir FOLDER`, if the command line names one.

    Raises InputError for a file in it that Hydra would pass over, since `conf/` has one of that name.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    added = parser.parse_known_args(list(arguments))[0].config_dir
    if added is None or not added.is_dir():  # Hydra tells the latter
        return []
    names = sorted(path.relative_to(added) for path in added.rglob("*.yaml"))
    if hidden := [str(name) for name in names if (config_folder() / name).is_file()]:
        raise InputError(f"{added} has {', '.join(hidden)}, as usdm itself has: give yours a name of its own")
    return [added]
