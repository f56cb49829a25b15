"""What the judge hears in the sounds of a folder of predictions, each heard once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from usdm.asr.recogniser import Recogniser
from usdm.audio import read_audio
from usdm.evaluation.result_lines import Progress
from usdm.metrics.figures import Prediction, Reference
from usdm.runs import JsonLines, read_lines
from usdm.types import InputError

logger = logging.getLogger(__name__)

RECOGNISED_FILE = "recognised.jsonl"
BATCH = 16  # sounds that are read, heard and written down at once


def recognise(
    folder: Path,
    predictions: Mapping[str, Prediction],
    references: Mapping[str, Reference],
    asr: Recogniser,
    progress: Progress,
) -> tuple[dict[str, Prediction], dict[str, Reference]]:
    """Predictions and references of the same ids, with what the judge hears. None stands where it cannot hear."""
    sounds = [prediction.audio for prediction in predictions.values()]
    sounds += [audio for each in references.values() for audio in (each.user_audio, each.agent_audio)]
    heard = _hear(folder / RECOGNISED_FILE, [sound for sound in sounds if sound is not None], asr, progress)
    return (
        {
            key: each if each.audio is None else replace(each, recognised=heard[each.audio])
            for key, each in predictions.items()
        },
        {
            key: replace(
                each,
                user_recognised=None if each.user_audio is None else heard[each.user_audio],
                agent_recognised=None if each.agent_audio is None else heard[each.agent_audio],
            )
            for key, each in references.items()
        },
    )


def _hear(path: Path, sounds: Sequence[Path], asr: Recogniser, progress: Progress) -> dict[Path, str | None]:
    """Texts by file; those that the judge heard before, by the files' contents, come from `path`, or from the folders
    beside it: those of one set share its recordings."""
    contents = {sound: _digest(sound) for sound in dict.fromkeys(sounds)}
    with JsonLines(path) as lines:
        lines.keep()
        known = {row["sound"]: row["text"] for row in lines.rows() if row["asr"] == asr.identity}
        beside = _heard_beside(path, asr)
        taken = [beside[content] for content in set(contents.values()) & beside.keys() - known.keys()]
        lines.append(*taken)
        known |= {row["sound"]: row["text"] for row in taken}
        new = {content: sound for sound, content in contents.items() if content not in known}
        todo = list(new.items())
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            texts = _texts(asr, [sound for _, sound in batch])
            rows = [
                {"asr": asr.identity, "sound": content, "text": text}
                for (content, _), text in zip(batch, texts, strict=True)
            ]
            lines.append(*rows)
            known |= {row["sound"]: row["text"] for row in rows}
            progress(start + len(batch), len(todo))
    return {sound: known[content] for sound, content in contents.items()}


def _heard_beside(path: Path, asr: Recogniser) -> dict[str, Mapping[str, str | None]]:
    """Rows by the contents of their sounds."""
    others = [each for each in sorted(path.parent.parent.glob(f"*/{path.name}")) if each != path]
    return {row["sound"]: row for each in others for row in read_lines(each) if row["asr"] == asr.identity}


def _texts(asr: Recogniser, sounds: Sequence[Path]) -> list[str | None]:
    """One that cannot be read or heard does not spoil the others."""
    try:
        return list(asr([read_audio(sound) for sound in sounds]))
    except InputError as error:
        if len(sounds) == 1:
            logger.warning("%s cannot be judged: %s", sounds[0], error)
            return [None]
        return [text for sound in sounds for text in _texts(asr, [sound])]


def _digest(sound: Path) -> str:
    return hashlib.sha256(sound.read_bytes()).hexdigest() if sound.is_file() else f"missing {sound}"
