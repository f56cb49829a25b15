"""Spoken dialog with one speech-text language model.

import usdm

pipeline = usdm.SpokenDialogPipeline.from_pretrained("tiny")
reply = pipeline.respond(waveform, sample_rate)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usdm.chain import LoadOptions, SpokenChunk, SpokenDialogPipeline, SpokenText
    from usdm.types import SpokenReply

__all__ = ["LoadOptions", "SpokenChunk", "SpokenDialogPipeline", "SpokenReply", "SpokenText", "__version__"]

try:
    __version__ = version("usdm")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"

# Imported when first asked for: torch alone takes seconds, which `usdm --help` need not wait for.
LAZY = {name: "usdm.types" if name == "SpokenReply" else "usdm.chain" for name in __all__ if name[0] != "_"}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module 'usdm' has no attribute {name!r}")
    return getattr(import_module(LAZY[name]), name)
