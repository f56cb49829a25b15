"""What the settings of every verb have in common."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Verb:
    """What every verb has."""

    debug: bool = False  # show the stack trace of an error
