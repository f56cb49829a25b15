"""Real recordings to a speech corpus: 16 kHz FLAC and a manifest in the layout that training reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from data_prep.augment import SAMPLE_RATE
from data_prep.files import write_atomically
from data_prep.flite import Flite
from data_prep.spoken_text import spoken_text
from usdm.audio import read_audio
from usdm.types import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportReport:
    """What became of the rows of a source."""

    utterances: int
    without_text: int
    failed: tuple[str, ...]  # one message a row


def import_recordings(sources: Sequence[str], output_dir: str, *, max_seconds: float, dev_every: int) -> ImportReport:
    """Read folders with a `manifest.jsonl` of `id`, `audio`, `speaker` and perhaps `text`; write one corpus.

    Args:
        max_seconds: longer recordings are cut into pieces of this length if they have no text, else left out
            and reported.
        dev_every: each n-th speaker becomes split "dev", the others "train".

    Raises:
        InputError: a source has no manifest.
    """
    folder = Path(output_dir)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    flite = Flite("kal16")
    rows: list[dict] = []
    failed: list[str] = []
    speakers: dict[str, int] = {}
    for source in map(Path, sources):
        if not (source / "manifest.jsonl").is_file():
            raise InputError(f"{source} has no manifest.jsonl: give a folder of recordings that has one.")
        for line in (source / "manifest.jsonl").read_text().splitlines():
            item = json.loads(line)
            speaker = f"{source.name}-{item.get('speaker', 'unknown')}"
            split = "dev" if speakers.setdefault(speaker, len(speakers)) % dev_every == dev_every - 1 else "train"
            text = spoken_text(item["text"]) if item.get("text") else None
            try:
                samples = read_audio(source / item["audio"], SAMPLE_RATE).samples
            except InputError as error:
                failed.append(str(error))
                continue
            longest = int(max_seconds * SAMPLE_RATE)
            if text and len(samples) > longest:
                failed.append(f"{item['audio']}: {len(samples) / SAMPLE_RATE:.1f} s with text, over {max_seconds} s")
                continue
            for piece, start in enumerate(range(0, len(samples), longest)):
                part = samples[start : start + longest]
                if len(part) < SAMPLE_RATE // 2:
                    continue  # the rest of a cut recording, too short to be of use
                name = f"{source.name}-{item['id']}-{piece}"
                audio = f"audio/{name}.flac"
                soundfile.write(folder / audio, part.numpy(), SAMPLE_RATE, subtype="PCM_16")
                rows.append(
                    {
                        "id": name,
                        "audio": audio,
                        "speaker": speaker,
                        "role": "user",
                        "dialog": name,
                        "turn": 0,
                        "split": split,
                        "text": text,
                        "duration": round(len(part) / SAMPLE_RATE, 3),
                        "sample_rate": SAMPLE_RATE,
                        "pronunciation": _pronunciation(flite, text) if text else None,
                    }
                )
    write_atomically(folder / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for message in failed:
        logger.warning("left out: %s", message)
    return ImportReport(len(rows), sum(row["text"] is None for row in rows), tuple(failed))


def _pronunciation(flite: Flite, text: str) -> list[str]:
    return [phone.text for phone in flite.speak(text).phones if phone.text != "pau"]
