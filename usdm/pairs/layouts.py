"""Benchmarks of likelihood pairs, in the files that they are published in.

What each was checked against stands at its class; the sound itself was not at hand.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from usdm.types import InputError

ALL = "all"
SUFFIXES = (".wav", ".flac")


@dataclass(frozen=True)
class Pair:
    """Two sounds; the model should give the first one more."""

    id: str
    better: Path
    worse: Path
    subsets: tuple[str, ...]  # that have a figure, and that it counts in
    cluster: str  # pairs of the same content in several voices are one


class Pairs(Protocol):
    """A benchmark of pairs."""

    name: str

    def read(self) -> list[Pair]:
        """Raises InputError if files are missing or are not as they are published."""
        ...


class SWuggy:
    """sWUGGY of the ZeroSpeech Challenge 2021 (arXiv 2011.11588): a word against a word that does not exist.

    `lexical/SPLIT/` with `gold.csv` (`id`, `filename`, `voice`, `frequency`, `word`, `correct`, ...) and
    `FILENAME.wav`. Checked against the challenge's evaluation (bootphon/zerospeech2021), whose score this is: the mean
    over ids of the mean over voices, a tie being one half. `in vocabulary` are words that LibriSpeech has.

    Args:
        folder: of the data set, with `lexical/` in it.
        split: `dev` or `test`.
    """

    def __init__(self, folder: str, *, split: str = "dev") -> None:
        self.name = f"sWUGGY {split}"
        self._folder = Path(folder) / "lexical" / split

    def read(self) -> list[Pair]:
        def subset(row: dict[str, str]) -> str:
            return "in vocabulary" if float(row.get("frequency") or 0) > 0 else "out of vocabulary"

        return _gold_pairs(self._folder, ("id",), subset)


class SBlimp:
    """sBLIMP of the same challenge: a sentence against one with an error of grammar.

    `syntactic/SPLIT/` with `gold.csv` (`id`, `filename`, `voice`, `type`, `subtype`, `transcription`, `correct`) and
    `FILENAME.wav`. Checked as sWUGGY; the figures by type are the challenge's too.

    Args:
        folder: of the data set, with `syntactic/` in it.
        split: `dev` or `test`.
    """

    def __init__(self, folder: str, *, split: str = "dev") -> None:
        self.name = f"sBLIMP {split}"
        self._folder = Path(folder) / "syntactic" / split

    def read(self) -> list[Pair]:
        return _gold_pairs(self._folder, ("type", "subtype", "id"), lambda row: row["type"])


class StoryCloze:
    """Spoken StoryCloze (arXiv 2305.13009): a story with its own end against one with another end.

    `NUMBER_correct.wav` and `NUMBER_incorrect.wav`, in the folder or in folders below it (one for each voice). In
    `sSC` the other end is the written one, in `tSC` that of a random story. Checked against the names that slamkit
    (slp-rl/slamkit) reads where ends lie apart from their beginnings, which is another version and is refused. (For
    whole stories slamkit sorts by number alone, and takes the first of two files, in the disk's order, for the
    correct one.)

    Args:
        folder: of `tSC` or `sSC`.
        name: for the figures.
    """

    def __init__(self, folder: str, *, name: str = "StoryCloze") -> None:
        self.name = name
        self._folder = Path(folder)

    def read(self) -> list[Pair]:
        found = sorted(path for suffix in SUFFIXES for path in self._folder.rglob(f"*_correct{suffix}"))
        pairs = []
        for path in found:
            number = path.name.removesuffix(path.suffix).removesuffix("_correct")
            worse = path.with_name(f"{number}_incorrect{path.suffix}")
            _check_there(worse)
            if path.with_name(f"{number}_mutual{path.suffix}").is_file():
                raise InputError(
                    f"{path.parent}: beginnings lie apart from the ends there (NUMBER_mutual): take the version in "
                    "which each file is a whole story"
                )
            voice = str(path.parent.relative_to(self._folder))
            pairs.append(Pair(f"{voice}/{number}".removeprefix("./"), path, worse, (ALL,), number))
        if not pairs:
            raise InputError(f"{self._folder}: no file NUMBER_correct.wav there or below; give the folder tSC or sSC")
        return pairs


SALMON_PARTS = (
    "sentiment_consistency",
    "speaker_consistency",
    "gender_consistency",
    "bg_domain_consistency",
    "bg_all_consistency",
    "rir_consistency",
    "sentiment_alignment",
    "bg_alignment",
)


class Salmon:
    """SALMon (arXiv 2409.07437): sound that stays as it is, or fits what is said, against sound that does not.

    `PART/sample_NUMBER_0.wav` and `PART/sample_NUMBER_1.wav`: of the files of a number, sorted by name, the first is
    the better. Checked against its own scorer (slp-rl/salmon, commit 85e2daf). Folders of other parts, such as those
    that `usdm make_pairs` writes, are read too. Each part has its figure; a mean over parts has none.

    Args:
        parts: some of them; None: all that are there.
    """

    name = "SALMon"

    def __init__(self, folder: str, *, parts: Sequence[str] | None = None) -> None:
        self._folder, self._parts = Path(folder), parts

    def read(self) -> list[Pair]:
        there = sorted({path.parent.name for path in self._folder.glob("*/sample_*.wav")}, key=_salmon_order)
        if missing := sorted(set(self._parts or ()) - set(there)):
            raise InputError(f"{self._folder}: no part {', '.join(missing)} there, only {', '.join(there) or 'none'}")
        if not there:
            raise InputError(f"{self._folder}: no folder with sample_0_0.wav, ... in it; give SALMon's folder")
        return [pair for part in there if self._parts is None or part in self._parts for pair in self._part(part)]

    def _part(self, part: str) -> list[Pair]:
        files: defaultdict[int, list[Path]] = defaultdict(list)
        for path in sorted((self._folder / part).glob("sample_*.wav")):
            found = re.fullmatch(r"sample_(\d+)(?:_.*)?", path.stem)
            if found is None:
                raise InputError(f"{path}: a name sample_NUMBER_0.wav or sample_NUMBER_1.wav is needed")
            files[int(found[1])].append(path)
        for number, own in files.items():
            if len(own) != 2:
                raise InputError(f"{self._folder / part}: {len(own)} files of sample {number}, where two are needed")
        return [
            Pair(f"{part}/{number}", better, worse, (part,), f"{part}/{number}")
            for number, (better, worse) in sorted(files.items())
        ]


def _salmon_order(part: str) -> tuple[int, str]:
    return (SALMON_PARTS.index(part) if part in SALMON_PARTS else len(SALMON_PARTS), part)


def _gold_pairs(folder: Path, key: tuple[str, ...], subset: Callable[[dict[str, str]], str]) -> list[Pair]:
    """Rows of one key and voice are a pair: one with `correct` 1, and one with 0; or several, in order."""
    gold = folder / "gold.csv"
    if not gold.is_file():
        raise InputError(f"{gold}: no such file; give the folder of ZeroSpeech 2021's data set, unpacked")
    sides: defaultdict[tuple[str, ...], tuple[list[dict[str, str]], list[dict[str, str]]]] = defaultdict(
        lambda: ([], [])
    )
    with gold.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                names = (*(row[name] for name in key), row["voice"])
                sides[names][0 if int(float(row["correct"])) else 1].append(row)
                row["filename"]
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{gold}, line {number}: {error!r}; it has the columns {', '.join(row)}") from error
    pairs = []
    for names, (right, wrong) in sides.items():
        if len(right) != len(wrong):
            raise InputError(f"{gold}: {' '.join(names)} has {len(right)} right rows and {len(wrong)} wrong ones")
        for good, bad in zip(right, wrong, strict=True):
            better, worse = (folder / f"{row['filename']}.wav" for row in (good, bad))
            _check_there(better)
            _check_there(worse)
            cluster = "/".join(names[:-1])
            pairs.append(Pair(f"{cluster}/{good['filename']}", better, worse, (ALL, subset(good)), cluster))
    if not pairs:
        raise InputError(f"{gold}: it has no row; download it again")
    return pairs


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file, though the benchmark has it; unpack the data set again")
