"""Fixtures that several tests share."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """absl (rouge-score imports it) closes the stderr that it was born with once logging is configured anew, as
    every verb does; it must not be pytest's."""
    with suppress(ModuleNotFoundError), redirect_stderr(sys.__stderr__):
        import absl.logging  # noqa: F401


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, REPOSITORY.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: point {variable} to a copy to run this test")
    return folder


@pytest.fixture(scope="session")
def compat_dir() -> Path:
    """Reference numbers of the published system."""
    return _folder("USDM_COMPAT_DIR", "compat")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real recordings and dialogs for development."""
    return _folder("USDM_DATA_DIR", "data")
