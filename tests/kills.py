"""A run that ends in the middle without a word, as `kill -9` ends it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import NoReturn

import torch

KILLED = 9


def killed(work: Callable[[], object]) -> None:
    """Do the work in a copy of this process, which must end through `die` before the work is done."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # the copy has no other thread
        child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED


def die() -> NoReturn:
    os._exit(KILLED)
