"""What the settings of every verb have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Verb:
    """What every verb has."""

    debug: bool = False  # show the stack trace of an error
    figure: Any = None  # of the result, that a sweeper such as Optuna is told; a list: several; null: the first
