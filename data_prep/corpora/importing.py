"""`import_corpus`: any source of utterances -> a speech corpus, each utterance checked, sound left where it is."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from tqdm import tqdm

from data_prep.corpora.checks import manifest_row
from data_prep.corpora.item import Item
from usdm.data.speech_corpus import MANIFEST_FILE
from usdm.runs import claim, content_digest, write_text
from usdm.types import InputError

logger = logging.getLogger(__name__)

FAILED_FILE = "failed.jsonl"
_ITEMS_AT_ONCE = 2048


@dataclass(frozen=True)
class Failure:
    """An utterance that was left out, and why."""

    id: str
    audio: str | None
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """What became of a source's utterances."""

    utterances: int
    hours: float
    without_text: int
    speechless: int  # left out: the source itself marks them as noise
    shared_sounds: int  # utterances whose very sound another split has too
    failed: tuple[Failure, ...]


def import_corpus(
    source: Iterable[Item],
    output_dir: str,
    *,
    dev_share: float,
    max_failed_share: float,
    decode: bool,
    threads: int,
    overwrite: bool = False,
) -> ImportReport:
    """Write `manifest.jsonl`, whole or not at all, and beside it `failed.jsonl`, one line an utterance left out.

    An import that gives the same utterances again changes nothing: a recogniser or an aligner may have added to them.

    Args:
        source: one of the sources of `data_prep.corpora`.
        dev_share: of the groups (speakers, or dialogs) of a source without splits, become "dev".
        max_failed_share: of all utterances may fail; above it there is no manifest.
        decode: read every sample, not the headers alone: finds files that were cut short, at the cost of time.
        threads: that look into sound files.
        overwrite: delete the manifest of other utterances that is there.

    Raises:
        InputError: the source cannot be read, an id occurs in two splits, too many utterances failed, or other
            utterances lie in `output_dir`.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="import-") as place:
        part = Path(place) / MANIFEST_FILE
        with ThreadPoolExecutor(threads) as pool, part.open("w", encoding="utf-8") as file:
            manifest = _Manifest(folder, file, dev_share)
            for item, outcome in tqdm(_checked(source, decode, pool), unit="utterance", desc="import_corpus"):
                manifest.add(item, outcome)
        report = manifest.report(max_failed_share)
        rows = {"utterances": content_digest(part)}  # what the source and the settings come to
        with claim(folder, rows, {}, results=[MANIFEST_FILE], overwrite=overwrite) as claimed:
            if not (claimed.record.done and (folder / MANIFEST_FILE).is_file()):
                os.replace(part, folder / MANIFEST_FILE)
                claimed.finish({**asdict(report), "failed": len(report.failed)})
    return report


def _checked(
    source: Iterable[Item], decode: bool, pool: ThreadPoolExecutor
) -> Iterator[tuple[Item, dict[str, object] | str]]:
    """Each item with its line of the manifest, or the reason why it has none; bounded memory."""
    items = iter(source)
    while block := list(islice(items, _ITEMS_AT_ONCE)):
        yield from zip(block, pool.map(partial(_check, decode=decode), block), strict=True)


def _check(item: Item, decode: bool) -> dict[str, object] | str:
    if item.speechless:
        return "marked as noise"
    try:
        return manifest_row(item, decode)
    except InputError as error:
        return str(error)


class _Manifest:
    """Writes the manifest's lines, and counts. Memory: two digests an utterance."""

    def __init__(self, folder: Path, file: TextIO, dev_share: float) -> None:
        self.folder, self.file, self.dev_share = folder, file, dev_share
        self.splits: dict[int, str] = {}  # by digests of ids
        self.sounds: dict[int, str] = {}  # splits by digests of sounds
        self.failed: list[Failure] = []
        self.seconds = 0.0
        self.without_text = self.speechless = self.shared_sounds = 0

    def add(self, item: Item, outcome: dict[str, object] | str) -> None:
        split = item.split or draw_split(item.group or item.speaker, self.dev_share)
        before = self.splits.get(_digest(item.id))
        if item.speechless:
            self.speechless += 1
        elif isinstance(outcome, str):
            self._fail(item, outcome)
        elif before is None:
            self._write(item, outcome, split)
        elif before == split:
            self._fail(item, "duplicate id; the first one is kept")
        else:
            raise InputError(
                f"id {item.id!r} occurs in split {before!r} and in {split!r}: what is trained on would be tested on; "
                "give each utterance one split and an id of its own."
            )

    def _write(self, item: Item, row: dict[str, object], split: str) -> None:
        self.splits[_digest(item.id)] = split
        sound = _digest(f"{row['audio']}\n{item.start}\n{item.channel}")
        self.shared_sounds += self.sounds.setdefault(sound, split) != split
        self.without_text += item.text is None
        self.seconds += float(str(row["duration"]))
        audio = Path(str(row["audio"]))
        if audio.is_relative_to(self.folder.absolute()):  # what lies within moves with the folder
            row["audio"] = str(audio.relative_to(self.folder.absolute()))
        self.file.write(json.dumps(row | {"split": split}) + "\n")

    def _fail(self, item: Item, reason: str) -> None:
        self.failed.append(Failure(item.id, None if item.audio is None else str(item.audio), reason))

    def report(self, max_failed_share: float) -> ImportReport:
        """Write `failed.jsonl`. Raises InputError if too many failed."""
        path = self.folder / FAILED_FILE
        write_text(path, "".join(json.dumps(asdict(failure)) + "\n" for failure in self.failed))
        total = len(self.splits) + len(self.failed)
        if not total:
            raise InputError(f"the source of {self.folder} has no utterance; look into the files that it reads")
        if not self.splits or len(self.failed) > max_failed_share * total:
            first = f" The first: {self.failed[0].id}: {self.failed[0].reason}." if self.failed else ""
            raise InputError(
                f"{len(self.failed)} of {total} utterances failed, {len(self.splits)} are left; at most a share of "
                f"{max_failed_share:g} may fail.{first} All of them are listed in {path}: mend the corpus, or raise "
                "max_failed_share."
            )
        if self.shared_sounds:
            logger.warning("%d utterances of %s are heard in another split too", self.shared_sounds, self.folder)
        if self.dev_share > 0 and "dev" not in self.splits.values():
            logger.warning(
                "%s has no utterance of split dev, which trainings want for validation: none of its speakers or "
                "dialogs was drawn for dev_share=%g; raise it, or give utterances a split",
                self.folder,
                self.dev_share,
            )
        return ImportReport(
            len(self.splits),
            self.seconds / 3600,
            self.without_text,
            self.speechless,
            self.shared_sounds,
            tuple(self.failed),
        )


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def draw_split(group: str, dev_share: float) -> str:
    """ "dev" for that share of all groups, else "train": by the group's name alone, whatever else there is."""
    draw = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    return "dev" if draw < dev_share else "train"
