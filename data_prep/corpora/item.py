"""What every source of a corpus says about one utterance, before anything is checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from usdm.types import AlignedWord


@dataclass(frozen=True)
class Item:
    """One utterance as its source describes it."""

    id: str
    audio: Path | None  # None: the source names no sound for it
    text: str | None = None  # None: not transcribed; empty is a fault
    speaker: str = "unknown"
    role: str = "user"
    dialog: str | None = None  # None: a dialog of its own
    turn: int = 0
    split: str | None = None  # None: drawn, one split for each `group`
    group: str | None = None  # None: the speaker
    start: float | None = None  # seconds; None: the whole file
    duration: float | None = None  # seconds, as the source says; None: as the file says
    channel: int | None = None  # None: all of them
    words: tuple[AlignedWord, ...] = ()  # seconds from the utterance's start
    phones: tuple[AlignedWord, ...] = ()
    pronunciation: tuple[str, ...] = ()
    speechless: bool = False  # the source marks it as noise, music or laughter alone
    fault: str | None = None  # why the source's own line cannot be understood
