"""Fixtures that several tests share, and what a test may want from the machine."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: their threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # a name that nobody has is refused at once, and no test depends on a hub

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest
import torch

from usdm.system_packages import install, system_packages

REPOSITORY = Path(__file__).resolve().parents[1]
IN_CI = os.environ.get("CI") == "true"
# What transformers says about itself, not about our calls.
OWN_DEPRECATIONS: tuple[str, ...] = ()


def pytest_configure(config: pytest.Config) -> None:
    """absl (rouge-score imports it) closes the stderr that it was born with once logging is configured anew, as
    every verb does; it must not be pytest's."""
    with suppress(ModuleNotFoundError), redirect_stderr(sys.__stderr__):
        import absl.logging  # noqa: F401
    config.addinivalue_line("markers", "system_packages(*names): the test wants these Debian packages")


def pytest_collection_finish() -> None:
    """What was imported is no garbage: trainings look for some at every step, and would search all of it."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("system_packages"):
        _require(*marker.args)


def _require(*names: str) -> None:
    """Skip the test, with the names, where packages are absent. CI has all that can be had without `non-free`."""
    missing = [name for name in names if not system_packages()[name].is_there]
    if any(not system_packages()[name].non_free for name in missing) and IN_CI:
        pytest.fail(f"CI must have them: {install(*missing)}")
    if missing:
        pytest.skip(install(*missing))


@pytest.fixture
def require_system_packages() -> Callable[..., None]:
    """For a fixture that wants Debian packages."""
    return _require


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


class _Deprecations(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "deprecated" in text and not text.startswith(OWN_DEPRECATIONS):
            self.found.append(text)


@pytest.fixture(autouse=True)
def _no_deprecated_call() -> Iterator[None]:
    """transformers tells of deprecated names in its log; Python's warnings are errors by pyproject.toml."""
    handler = _Deprecations()
    logging.getLogger("transformers").addHandler(handler)
    yield
    logging.getLogger("transformers").removeHandler(handler)
    assert not handler.found


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
