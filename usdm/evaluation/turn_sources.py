"""Held-out turns to judge turn detection by: recordings that pauses are put into, and calls as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from usdm.audio import read_audio
from usdm.evaluation.turn_detection import AFTERWARDS, BEFORE, SpokenTurn, spoken_turn
from usdm.runs import read_lines
from usdm.turns import FRAME, SAMPLE_RATE, VoiceActivity
from usdm.turns.moments import PauseLengths, noise, quietest_level
from usdm.types import InputError

MANIFEST_FILE = "manifest.jsonl"
SHORTEST, LONGEST = 0.5, 15.0  # seconds
SPEECH = 0.5  # probability of speech in a frame, from which somebody speaks
JOINED = 6  # frames without speech that do not part two stretches of it


def read_turns(
    folder: str | Path, split: str | None, limit: int | None, pauses: int, lengths: PauseLengths, seed: int
) -> list[SpokenTurn]:
    """Turns of users, or of whoever speaks, with up to `pauses` put into each.

    Raises InputError if there is no manifest, a line of it has no sound, or no turn is left.
    """
    folder, random = Path(folder), np.random.default_rng(seed)
    rows = [row for row in _rows(folder) if split in (None, row.get("split")) and _is_turn(row)]
    if not rows:
        raise InputError(f"{folder}: no turn of {SHORTEST} to {LONGEST} s in split {split}; check the manifest")
    drawn = random.permutation(len(rows))[:limit]
    return [_turn(folder, rows[int(place)], pauses, lengths, random) for place in drawn]


def _rows(folder: Path) -> list[dict[str, Any]]:
    if not (folder / MANIFEST_FILE).is_file():
        raise InputError(f"{folder}: no {MANIFEST_FILE}; give a speech corpus or a folder of recordings")
    return list(read_lines(folder / MANIFEST_FILE))


def _is_turn(row: dict[str, Any]) -> bool:
    return row.get("role", "user") == "user" and SHORTEST <= row["duration"] <= LONGEST


def _turn(
    folder: Path, row: dict[str, Any], pauses: int, lengths: PauseLengths, random: np.random.Generator
) -> SpokenTurn:
    start = row.get("start")
    seconds = None if start is None else row["duration"]
    sound = read_audio(
        folder / row["audio"], SAMPLE_RATE, start=start or 0.0, seconds=seconds, channel=row.get("channel")
    ).samples
    ends = [min(float(end), len(sound) / SAMPLE_RATE) for _, _, end in row.get("words") or ()]
    return spoken_turn(str(row["id"]), str(row.get("speaker", row["id"])), sound, ends, pauses, lengths, random)


def read_call(folder: str | Path) -> list[SpokenTurn]:
    """Both sides' turns of one call: a turn is over when the other side speaks before its speaker goes on.

    Raises InputError if the manifest does not list two recordings.
    """
    folder = Path(folder)
    rows = _rows(folder)
    if len(rows) != 2:
        raise InputError(f"{folder}: {len(rows)} recordings are listed; a call has two sides, so give two")
    sounds = [read_audio(folder / row["audio"], SAMPLE_RATE).samples for row in rows]
    stretches = [_stretches(sound) for sound in sounds]
    return [
        turn
        for mine, theirs in ((0, 1), (1, 0))
        for turn in _side(str(rows[mine]["id"]), sounds[mine], stretches[mine], stretches[theirs])
    ]


def _stretches(sound: Tensor) -> list[tuple[int, int]]:
    """First and last sample of each stretch of speech."""
    spoken = [place for place, probability in enumerate(VoiceActivity().push(sound)) if probability >= SPEECH]
    found: list[tuple[int, int]] = []
    for place in spoken:
        if found and place * FRAME - found[-1][1] <= JOINED * FRAME:
            found[-1] = (found[-1][0], (place + 1) * FRAME)
        else:
            found.append((place * FRAME, (place + 1) * FRAME))
    return found


def _side(name: str, sound: Tensor, mine: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> Iterator[SpokenTurn]:
    turn: list[tuple[int, int]] = []
    for stretch, following in zip(mine, [*mine[1:], None], strict=True):
        turn.append(stretch)
        answered = following is None or any(stretch[0] < start < following[0] for start, _ in theirs)
        if answered:
            yield _as_it_was(f"{name}-{turn[0][0]}", name, sound, turn, following)
            turn = []


def _as_it_was(
    id_: str, name: str, sound: Tensor, turn: list[tuple[int, int]], following: tuple[int, int] | None
) -> SpokenTurn:
    """Quiet after it is made as long as is needed."""
    first, last = max(0, turn[0][0] - round(BEFORE * SAMPLE_RATE)), turn[-1][1]
    until = min(last + round(AFTERWARDS * SAMPLE_RATE), len(sound) if following is None else following[0])
    missing = last + round(AFTERWARDS * SAMPLE_RATE) - until
    quiet = noise(missing, quietest_level(sound), np.random.default_rng(last))
    return SpokenTurn(id_, name, torch.cat([sound[first:until], quiet]), last - first, len(turn) - 1)
