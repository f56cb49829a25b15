"""What models of the hub that judge or answer have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from usdm.runs import content_digest
from usdm.types import InputError
from usdm.units.hub import UNREADABLE, first_line, quiet

DIGITS = 8  # of a digest, in a name


def read_pretrained(kind: Any, name: str, revision: str | None, **options: Any) -> Any:
    """`kind.from_pretrained`, quietly. Raises InputError if it cannot be had or read."""
    try:
        with quiet():
            return kind.from_pretrained(name, revision=revision, **options)
    except (*UNREADABLE, KeyError) as error:
        raise InputError(f"{name} cannot be read as a {kind.__name__} ({first_line(error)}).") from error


def digest_of(name: str, revision: str | None) -> str:
    """Of a model's content; of one of the hub that is named with a revision, the revision itself."""
    return revision or content_digest(name)


def readable_name(name: str, digest: str) -> str:
    """The last part of a hub name or folder, and what tells it from others of that name."""
    return f"{Path(name).name} {digest[:DIGITS]}"


def place(device: str | None) -> torch.device:
    """None: the GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
