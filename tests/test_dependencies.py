"""What the package needs: ranges with both ends, exact versions inside them, and one list of system packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from usdm.system_packages import install, system_packages

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_TOGETHER = {"vllm"}  # it brings a torch of its own
REQUIREMENTS = [
    Requirement(line)
    for extra, lines in {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items()
    if extra not in NOT_TOGETHER
    for line in lines
    if not line.startswith("usdm[")
]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_a_range_is_bounded_and_holds_the_version_that_was_tested(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators & {"<", "=="} and (operators & {">=", "=="} or requirement.name == "setuptools")
    tested = versions((REPOSITORY / "constraints.txt").read_text(encoding="utf-8"))
    assert requirement.specifier.contains(tested[normalised(requirement.name)])


def test_exact_versions_are_names_and_numbers_alone() -> None:
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[\w.!]+", line), line


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    command = [sys.executable, REPOSITORY / ".ci/constraints.py", "lowest", "dev"]
    lowest = versions(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert {"torch", "transformers", "pytest", "peft", "hydra-joblib-launcher"} <= set(lowest)
    for requirement in REQUIREMENTS:
        if normalised(requirement.name) in lowest:
            assert f">={lowest[normalised(requirement.name)]}" in str(requirement.specifier)


def test_the_documents_have_the_list_of_system_packages() -> None:
    rows = [
        f"| `{package.name}`{' (non-free)' if package.non_free else ''} | {package.reason} | {package.wanted_by} |"
        for package in system_packages().values()
    ]
    assert "\n".join(rows) in (REPOSITORY / "docs/system_packages.md").read_text(encoding="utf-8")


def test_messages_name_packages_of_the_list_alone() -> None:
    assert install("flite") == "install the Debian package flite"
    assert install("librhvoice5", "rhvoice-english").endswith("librhvoice5 and rhvoice-english (in Debian's non-free)")
    with pytest.raises(KeyError):
        install("sox")
    for tree in ("usdm", "data_prep", "demo"):
        for path in (REPOSITORY / tree).rglob("*.py"):
            if path.name != "system_packages.py":
                assert "install the Debian" not in path.read_text(encoding="utf-8"), path


def test_every_package_of_the_list_can_be_looked_for() -> None:
    for package in system_packages().values():
        assert sum(each is not None for each in (package.library, package.command, package.path)) == 1
        assert isinstance(package.is_there, bool)
