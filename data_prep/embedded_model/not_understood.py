"""User turns that there is no answer to: noise, and words outside the domain. The agent says that it did not
understand, so that the model learns to say so instead of guessing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from usdm.tokens.spoken_text import spoken_text
from usdm.types import InputError

NOTHING_SAID = "..."  # text of a turn that is noise alone
REPLIES = (
    "sorry, i did not understand that.",
    "i am sorry, i did not understand. could you say that again?",
)


def reply(number: int) -> str:
    return REPLIES[number % len(REPLIES)]


def recorded_turns(folders: Sequence[str | Path]) -> Iterator[tuple[str, Path]]:
    """The text and the sound file of the transcribed recordings in folders with a `manifest.jsonl`.

    Raises:
        InputError: a folder has no manifest, or names a sound file that does not exist.
    """
    for folder in map(Path, folders):
        manifest = folder / "manifest.jsonl"
        if not manifest.is_file():
            raise InputError(f"{folder} has no manifest.jsonl: give a folder of recordings that has one.")
        for number, line in enumerate(manifest.read_bytes().splitlines(), start=1):
            try:
                item = json.loads(line)
                if not item.get("text"):
                    continue
                audio = (folder / item["audio"]).resolve()
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{manifest}, line {number}: not a recording ({error!r}); it needs audio.") from error
            if not audio.is_file():
                raise InputError(f"{manifest} names {audio}, which does not exist: fetch it, or take its line out.")
            yield spoken_text(item["text"]), audio
