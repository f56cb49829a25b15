"""What every kind of training asks of its numbers."""

from __future__ import annotations

from typing import Any

from usdm.types import InputError


def check_at_least(least: int, settings: Any, *names: str) -> None:
    """Raises InputError for an attribute of `settings` that is below `least`."""
    for name in names:
        if (value := getattr(settings, name)) < least:
            raise InputError(f"{name}={value}: give {least} or more")
