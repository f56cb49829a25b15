"""Sentences of any text as user turns, so that words outside the dialogs' domain are heard too. Most stand alone;
to some with such words the agent says that it did not understand.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.embedded_model import not_understood
from data_prep.embedded_model.dialog_text import DIALOGS_FILE, DOMAIN_FILE
from data_prep.text_files import read_texts
from usdm.runs import arguments_of, claim, write_text
from usdm.tokens.spoken_text import spoken_text, spoken_words
from usdm.types import InputError

REPORT_FILE = "sentences.json"
_ABBREVIATIONS = {"Mr.": "mister", "Mrs.": "missus", "Dr.": "doctor", "St.": "saint"}
_ABBREVIATION = re.compile("|".join(re.escape(short) for short in _ABBREVIATIONS))
_SENTENCE_END = re.compile(r"(?<=[.?!])[\"')\]]*\s+")
_ANSWERED_STRANGE_WORDS = 2  # at least so many are outside the domain where the agent did not understand


@dataclass(frozen=True)
class SentencesReport:
    """What was drawn, and of how much."""

    sentences: dict[str, int]  # by split
    not_understood: int  # of them, answered so
    available: dict[str, int]  # different ones of fitting length, by file
    words: int  # different ones


def prepare_sentences(
    text_files: Sequence[str | Path],
    dialogs_folder: str | Path,
    output_dir: str | Path,
    *,
    sentences: int,
    min_words: int,
    max_words: int,
    not_understood_share: float,
    dev_share: float,
    seed: int,
    overwrite: bool = False,
) -> SentencesReport:
    """Draw sentences, from each file alike, for `synthesize_corpus`; write `dialogs.jsonl` and `sentences.json`.

    Args:
        text_files: as `data_prep.text_files.read_texts` reads them; one that has too few gives all of them.
        dialogs_folder: where `prepare_dialogs` wrote. What its test dialogs say is left out here.
        not_understood_share: of sentences, which the agent answers if two of their words are outside the domain.
        overwrite: delete other sentences in `output_dir`.

    Raises:
        InputError: a file is missing or cannot be read, all of them have too few different sentences, or other
            sentences are there.
    """
    given = arguments_of(prepare_sentences, locals(), but=("output_dir", "overwrite"))
    if not text_files:
        raise InputError("text_files=[]: give at least one file of text.")
    results = (DIALOGS_FILE, REPORT_FILE)
    with claim(output_dir, given.settings, given.inputs, results=results, overwrite=overwrite) as claimed:
        tested, domain = _tested_texts(Path(dialogs_folder)), _domain(Path(dialogs_folder))
        random = np.random.default_rng(seed)
        dialogs: list[dict] = []
        different: dict[str, list[str]] = {}
        for file in map(str, text_files):
            found = [text for text in _sentences(file) if min_words <= len(spoken_words(text)) <= max_words]
            different[file] = [text for text in dict.fromkeys(found) if tuple(spoken_words(text)) not in tested]
        available = {file: len(texts) for file, texts in different.items()}
        wanted = _parts(sentences, list(available.values()))
        if sum(wanted) < sentences:
            raise InputError(
                f"{', '.join(available)} have {sum(wanted)} different sentences of {min_words} to {max_words} words, "
                f"{sentences} are wanted: ask for fewer, or give more text."
            )
        for number, (texts, part) in enumerate(zip(different.values(), wanted, strict=True)):
            for position in random.permutation(len(texts))[:part]:
                split = "dev" if random.random() < dev_share else "train"
                turns = [{"role": "user", "text": texts[position]}]
                strange = len(set(spoken_words(texts[position])) - domain) >= _ANSWERED_STRANGE_WORDS
                if random.random() < not_understood_share and strange:
                    turns.append({"role": "agent", "text": not_understood.reply(len(dialogs))})
                name = f"sentence-{number}-{position}"
                dialogs.append({"dialog": name, "split": split, "services": ["sentences"], "turns": turns})
        random.shuffle(dialogs)  # so that the first ones are of every file
        report = SentencesReport(
            dict(Counter(dialog["split"] for dialog in dialogs)),
            sum(len(dialog["turns"]) == 2 for dialog in dialogs),
            available,
            len({word for dialog in dialogs for word in spoken_words(dialog["turns"][0]["text"])}),
        )
        write_text(claimed.path / DIALOGS_FILE, "".join(json.dumps(dialog) + "\n" for dialog in dialogs))
        write_text(claimed.path / REPORT_FILE, json.dumps(asdict(report), indent=1))
        claimed.finish(asdict(report))
        return report


def _parts(total: int, available: Sequence[int]) -> list[int]:
    """How many of each: all of those that have few, equal parts of the others."""
    parts, left = [0] * len(available), total
    for place, (number, index) in enumerate(sorted((number, index) for index, number in enumerate(available))):
        parts[index] = min(number, left // (len(available) - place))
        left -= parts[index]
    return parts


def _tested_texts(dialogs_folder: Path) -> set[tuple[str, ...]]:
    """The words of every turn of the test dialogs, and of every sentence in one."""
    with _prepared(dialogs_folder / DIALOGS_FILE) as path:
        if not (dialogs := [json.loads(line) for line in path.read_bytes().splitlines()]):
            raise ValueError("it is empty")
        turns = [str(turn["text"]) for dialog in dialogs if dialog["split"] == "test" for turn in dialog["turns"]]
    return {tuple(spoken_words(text)) for turn in turns for text in (turn, *_SENTENCE_END.split(turn))}


def _domain(dialogs_folder: Path) -> set[str]:
    with _prepared(dialogs_folder / DOMAIN_FILE) as path:
        return set(json.loads(path.read_bytes())["words"])


@contextmanager
def _prepared(path: Path) -> Iterator[Path]:
    """A file of `prepare_dialogs`, to be read in the block. Raises InputError if it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: run `usdm prepare_dialogs` first, or give dialogs_folder=.")
    try:
        yield path
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}): run `usdm prepare_dialogs overwrite=true`.") from error


def _sentences(file: str | Path) -> Iterator[str]:
    """As they are spoken."""
    for text in read_texts(file):
        written = _ABBREVIATION.sub(lambda match: _ABBREVIATIONS[match[0]], text)
        for sentence in _SENTENCE_END.split(written):
            yield spoken_text(sentence.replace("_", " "))
