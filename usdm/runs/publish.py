"""Files and folders that are there whole or not at all, however the process that makes them ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART, OLD = ".part", ".old"


@contextmanager
def publishing(path: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """A place beside `path` to write to; it gets the name `path` when the block ends without an error.

    Two processes that publish the same path at once have a place each, and the last one's result stays. A `folder`
    takes the place of what had the name before, so a reader may find no folder for a moment, but never a half one.
    """
    final = Path(path)
    part = final.with_name(f"{final.name}.{os.getpid()}{PART}")
    remove(part)
    final.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        part.mkdir()
    try:
        yield part
        if folder and final.is_dir():
            old = final.with_name(f"{final.name}.{os.getpid()}{OLD}")
            os.replace(final, old)
            os.replace(part, final)
            remove(old)
        else:
            os.replace(part, final)
    except BaseException:
        remove(part)
        raise


def write_text(path: str | Path, text: str) -> None:
    """`path` with this text, UTF-8, or as it was before."""
    with publishing(path) as part:
        part.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
