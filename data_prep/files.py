"""Text files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write beside `path` and rename, so that a kill or a full disk leaves nothing half-written under its name."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
