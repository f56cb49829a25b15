"""Real recordings to a speech corpus: 16 kHz FLAC and a manifest in the layout that training reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from data_prep.augment import SAMPLE_RATE
from data_prep.embedded_model.flite import Flite
from usdm.audio import read_audio
from usdm.data.speech_corpus import MANIFEST_FILE, manifest_lines, manifest_row
from usdm.runs import claim, publishing
from usdm.tokens.language import English, Language, told_apart
from usdm.types import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordingsReport:
    """What became of the rows of a source."""

    utterances: int
    without_text: int
    left_out: int  # rows that failed when the corpus was made
    failed: tuple[str, ...]  # one message a row, if that was now


def import_recordings(
    sources: Sequence[str],
    output_dir: str,
    *,
    max_seconds: float,
    dev_every: int,
    language: Language = English(),  # noqa: B008 (frozen)
    overwrite: bool = False,
) -> RecordingsReport:
    """Read folders with a `manifest.jsonl` of `id`, `audio`, `speaker` and perhaps `text`; write one corpus.

    What is done already is not done again: an aligner or a recogniser may have added to the manifest.

    Args:
        max_seconds: longer recordings are cut into pieces of this length if they have no text, else left out
            and reported.
        dev_every: each n-th speaker becomes split "dev", the others "train".
        language: of the texts; pronunciations are known of English alone.
        overwrite: delete what came of other sources or settings.

    Raises:
        InputError: a source has no manifest, two of them have the same name, an id occurs twice in one, a text is of
            another language, or `output_dir` holds what came of other sources or settings.
    """
    folders = [Path(source) for source in sources]
    for source in folders:
        if not (source / MANIFEST_FILE).is_file():
            raise InputError(f"{source} has no manifest.jsonl: give a folder of recordings that has one.")
        if [other.name for other in folders].count(source.name) > 1:
            raise InputError(f"{source}: another source has the name {source.name} too, and recordings are named by it")
    folder = Path(output_dir)
    aligned = _num_aligned(folder / MANIFEST_FILE)
    with claim(
        folder,
        {"max_seconds": max_seconds, "dev_every": dev_every, **told_apart(language)},
        {source.name: source for source in folders},
        results=("audio/*", MANIFEST_FILE),
        overwrite=overwrite,
    ) as claimed:
        if claimed.record.done and (folder / MANIFEST_FILE).is_file():  # others may have added to its rows
            known = claimed.record.figures
            return RecordingsReport(known["utterances"], known["without_text"], known["failed"], ())
        (folder / "audio").mkdir(exist_ok=True)
        importer = _Importer(folder, max_seconds, dev_every, language)
        with publishing(folder / MANIFEST_FILE) as part, part.open("w", encoding="utf-8") as file:
            for source in folders:
                for item in _items(source / MANIFEST_FILE):
                    file.writelines(json.dumps(row) + "\n" for row in importer.rows(source, item))
        for message in importer.failed:
            logger.warning("left out: %s", message)
        failed = tuple(importer.failed)
        report = RecordingsReport(importer.utterances, importer.without_text, len(failed), failed)
        claimed.finish(
            {"utterances": report.utterances, "without_text": report.without_text, "failed": report.left_out}
        )
    if aligned:
        logger.warning("%d utterances lost the times of their words to overwrite=true; align %s again", aligned, folder)
    return report


def _num_aligned(manifest: Path) -> int:
    """Utterances that an aligner has been at, of a manifest that may be absent or damaged."""
    if not manifest.is_file():
        return 0
    with manifest.open("rb") as lines:
        return sum(b'"words": ' in line for line in lines)


def _items(manifest: Path) -> Iterator[dict[str, Any]]:
    with manifest.open("rb") as lines:
        for number, _, line in manifest_lines(lines):
            try:
                row = manifest_row(line)
                if not isinstance(row.get("text"), str | None):
                    raise ValueError("text is no string")
            except ValueError as error:
                raise InputError(
                    f"{manifest}, line {number}: not a recording ({error}); mend it, or take it out: {line[:60]!r}"
                ) from error
            yield row


class _Importer:
    def __init__(self, folder: Path, max_seconds: float, dev_every: int, language: Language) -> None:
        self.folder, self.dev_every, self.language = folder, dev_every, language
        self.max_seconds, self.longest = max_seconds, int(max_seconds * SAMPLE_RATE)
        self.flite = Flite("kal16") if isinstance(language, English) else None
        self.utterances = self.without_text = 0
        self.failed: list[str] = []
        self._speakers: dict[str, int] = {}
        self._names: set[str] = set()

    def rows(self, source: Path, item: dict) -> Iterator[dict]:
        """Lines of the manifest for a recording, whose sound is written. Raises InputError if its id was there."""
        name = f"{source.name}-{item['id']}"
        if name in self._names:
            raise InputError(f"{source}: id {item['id']!r} occurs twice; give each recording an id of its own")
        self._names.add(name)
        speaker = f"{source.name}-{item.get('speaker', 'unknown')}"
        number = self._speakers.setdefault(speaker, len(self._speakers))
        text = self._spoken(item["text"], source) if item.get("text") else None
        try:
            samples = read_audio(source / item["audio"], SAMPLE_RATE).samples
        except InputError as error:
            self.failed.append(str(error))
            return
        if text and len(samples) > self.longest:
            seconds = len(samples) / SAMPLE_RATE
            self.failed.append(f"{item['audio']}: {seconds:.1f} s with text, over {self.max_seconds} s")
            return
        for piece, start in enumerate(range(0, len(samples), self.longest)):
            part = samples[start : start + self.longest]
            if len(part) < SAMPLE_RATE // 2:
                continue  # the rest of a cut recording, too short to be of use
            audio = f"audio/{name}-{piece}.flac"
            soundfile.write(self.folder / audio, part.numpy(), SAMPLE_RATE, subtype="PCM_16")
            self.utterances += 1
            self.without_text += text is None
            yield {
                "id": f"{name}-{piece}",
                "audio": audio,
                "speaker": speaker,
                "role": "user",
                "dialog": f"{name}-{piece}",
                "turn": 0,
                "split": "dev" if number % self.dev_every == self.dev_every - 1 else "train",
                "text": text,
                "duration": round(len(part) / SAMPLE_RATE, 3),
                "sample_rate": SAMPLE_RATE,
                "pronunciation": _pronunciation(self.flite, text) if text and self.flite else None,
            }

    def _spoken(self, text: str, source: Path) -> str:
        try:
            self.language.check(text)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        return self.language.spoken_text(text)


def _pronunciation(flite: Flite, text: str) -> list[str]:
    return [phone.text for phone in flite.speak(text).phones if phone.text != "pau"]
