"""Sentences of plain text as user turns that stand alone, so that words outside the dialogs' domain are heard too."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.files import write_atomically
from data_prep.spoken_text import spoken_text, spoken_words
from usdm.types import InputError

_ABBREVIATIONS = {"Mr.": "mister", "Mrs.": "missus", "Dr.": "doctor", "St.": "saint"}
_ABBREVIATION = re.compile("|".join(re.escape(short) for short in _ABBREVIATIONS))
_SENTENCE_END = re.compile(r"(?<=[.?!])[\"')\]]*\s+")


@dataclass(frozen=True)
class SentencesReport:
    """How many sentences each split has, and how many different ones of fitting length each file."""

    sentences: dict[str, int]
    available: dict[str, int]
    words: int  # different ones


def prepare_sentences(
    text_files: Sequence[str],
    output_dir: str,
    *,
    sentences: int,
    min_words: int,
    max_words: int,
    dev_share: float,
    seed: int,
) -> SentencesReport:
    """Draw sentences, as many from each file, for `synthesize_corpus`; write `dialogs.jsonl` and `sentences.json`.

    Raises:
        InputError: a file is missing or no UTF-8 text, or has fewer different sentences than its part.
    """
    if not text_files:
        raise InputError("text_files=[]: give at least one file of plain text.")
    part, more = divmod(sentences, len(text_files))
    random = np.random.default_rng(seed)
    dialogs, available = [], {}
    for number, file in enumerate(text_files):
        wanted = part + (number < more)
        found = [text for text in _sentences(file) if min_words <= len(spoken_words(text)) <= max_words]
        different = list(dict.fromkeys(found))
        available[file] = len(different)
        if len(different) < wanted:
            raise InputError(
                f"{file} has {len(different)} different sentences of {min_words} to {max_words} words, {wanted} are "
                "wanted of it: ask for fewer sentences, or give more text."
            )
        for position in random.permutation(len(different))[:wanted]:
            split = "dev" if random.random() < dev_share else "train"
            turn = {"role": "user", "text": different[position]}
            name = f"sentence-{number}-{position}"
            dialogs.append({"dialog": name, "split": split, "services": ["sentences"], "turns": [turn]})
    words = {word for dialog in dialogs for word in spoken_words(dialog["turns"][0]["text"])}
    report = SentencesReport(dict(Counter(dialog["split"] for dialog in dialogs)), available, len(words))
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "dialogs.jsonl", "".join(json.dumps(dialog) + "\n" for dialog in dialogs))
    write_atomically(folder / "sentences.json", json.dumps(asdict(report), indent=1))
    return report


def _sentences(file: str) -> Iterator[str]:
    """As they are spoken; a paragraph ends at an empty line."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of plain text.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error}): convert it first.") from error
    text = _ABBREVIATION.sub(lambda match: _ABBREVIATIONS[match[0]], text)
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            yield spoken_text(sentence.replace("_", " "))
