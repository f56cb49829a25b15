"""Exact versions for pip's --constraint: `installed`, what this environment has; or `lowest EXTRA`, the lower bounds of
pyproject.toml."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

HEAD = """\
# Versions that the whole test suite passed with together, on Python {python}: what `make` installs and CI tests.
#   pip install --constraint constraints.txt .
# Written by `make update`. pyproject.toml has the ranges.
"""
OWN = {"usdm", "pip"}


def installed() -> str:
    """Every distribution of this environment; a local label such as +cpu is no part of what a registry has."""
    versions = {normalised(each.name): each.version.partition("+")[0] for each in distributions()}
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items()) if name not in OWN]
    return HEAD.format(python=".".join(map(str, sys.version_info[:2]))) + "".join(lines)


def lowest(extra: str) -> str:
    """The lower bound of every requirement of the package and of an extra."""
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    bounds = dict(bound(line) for line in [*project["dependencies"], *requirements(optional, extra)])
    return "".join(f"{name}=={version}\n" for name, version in sorted(bounds.items()))


def requirements(optional: dict[str, list[str]], extra: str) -> Iterator[str]:
    """Of an extra, and of the extras that it names."""
    for line in optional[extra]:
        if inner := re.fullmatch(r"usdm\[(.+)\]", line):
            for name in inner[1].split(","):
                yield from requirements(optional, name)
        else:
            yield line


def bound(requirement: str) -> tuple[str, str]:
    name, version = re.match(r"([\w.-]+)[^>=]*[>=]=([\w.]+)", requirement).groups()  # type: ignore[union-attr]
    return normalised(name), version


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.stdout.write(installed() if sys.argv[1] == "installed" else lowest(sys.argv[2]))
