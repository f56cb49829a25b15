"""Pairs of a question and its answer as dialogs of one exchange, in any language: what `synthesize_corpus` speaks."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usdm.runs import arguments_of, claim, write_text
from usdm.tokens.language import Language
from usdm.tokens.spoken_text import spoken_words
from usdm.types import InputError

DIALOGS_FILE, REPORT_FILE = "dialogs.jsonl", "questions.json"


@dataclass(frozen=True)
class QuestionsReport:
    """What came of the pairs."""

    pairs: int  # in the file
    left_out: dict[str, int]  # by reason
    exchanges: dict[str, int]  # by split
    words: int  # different ones


@dataclass(frozen=True)
class _Pair:
    question: str
    answer: str

    @property
    def words(self) -> list[str]:
        return spoken_words(self.question) + spoken_words(self.answer)


def prepare_questions(
    file: str | Path,
    output_dir: str,
    *,
    language: Language,
    columns: Sequence[str],
    vocabulary_size: int,
    max_words: int,
    copies: int,
    dev_share: float,
    test_share: float,
    seed: int,
    overwrite: bool = False,
) -> QuestionsReport:
    """Write `dialogs.jsonl` (one exchange a line, split train, dev or test) and `questions.json`.

    All pairs with one question are in one split, so that no question of the test was heard before.

    Args:
        file: .csv, gzipped or not, UTF-8, with a header.
        columns: the question's and the answer's.
        language: how they are spoken.
        vocabulary_size: pairs with any other word than the most frequent ones, this many, are left out.
        max_words: of a question and of an answer.
        copies: how often training has each pair, each time in a voice of its own.
        overwrite: delete other dialogs in `output_dir`.

    Raises:
        InputError: the file is missing, no such table, or has no pair of the language that fits; or other dialogs are
            there.
    """
    given = arguments_of(prepare_questions, locals(), but=("output_dir", "overwrite"))
    if len(columns) != 2 or copies < 1:
        raise InputError(f"columns={list(columns)}, copies={copies}: give two columns, and one copy or more")
    results = (DIALOGS_FILE, REPORT_FILE)
    with claim(output_dir, given.settings, given.inputs, results=results, overwrite=overwrite) as claimed:
        rows = list(_rows(Path(file), columns))
        left_out: Counter[str] = Counter()
        fitting = list(_fitting(rows, language, max_words, left_out, str(file)))
        counts = Counter(word for pair in fitting for word in pair.words)
        vocabulary = {word for word, _ in counts.most_common(vocabulary_size)}
        kept = [pair for pair in fitting if vocabulary.issuperset(pair.words)]
        left_out["with rarer words"] += len(fitting) - len(kept)
        if not kept:
            why = ", ".join(f"{number} {reason}" for reason, number in left_out.items() if number) or "no pair in it"
            raise InputError(
                f"{file}: {why}, so that nothing is left: raise vocabulary_size or max_words, or choose its language"
            )
        dialogs = [each for pair in kept for each in _dialogs(pair, copies, dev_share, test_share, seed)]
        report = QuestionsReport(
            pairs=len(rows),
            left_out={reason: number for reason, number in left_out.items() if number},
            exchanges=dict(Counter(dialog["split"] for dialog in dialogs)),
            words=len({word for pair in kept for word in pair.words}),
        )
        lines = (json.dumps(dialog, ensure_ascii=False) + "\n" for dialog in dialogs)
        write_text(claimed.path / DIALOGS_FILE, "".join(lines))
        write_text(claimed.path / REPORT_FILE, json.dumps(asdict(report), indent=1))
        claimed.finish(asdict(report))
        return report


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        raise InputError(f"file={path} does not exist: give a .csv or .csv.gz file with a header")
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            if absent := [name for name in columns if name not in (table.fieldnames or ())]:
                names = ", ".join(table.fieldnames or ["none"])
                raise InputError(f"{path} has no column {', '.join(absent)}, only {names}: give columns=[...]")
            for row in table:
                yield row[columns[0]] or "", row[columns[1]] or ""
    except (UnicodeDecodeError, csv.Error, OSError, EOFError) as error:
        raise InputError(f"{path} is no UTF-8 table ({error}): convert it first") from error


def _fitting(
    rows: Sequence[tuple[str, str]], language: Language, max_words: int, left_out: Counter[str], file: str
) -> Iterator[_Pair]:
    """Different pairs of the language, as they are spoken. Raises InputError if none is of the language."""
    seen: set[_Pair] = set()
    refusal: InputError | None = None
    for texts in rows:
        try:
            for text in texts:
                language.check(text)
        except InputError as error:
            refusal = refusal or error
            left_out["of another language"] += 1
            continue
        pair = _Pair(*map(language.spoken_text, texts))
        if not spoken_words(pair.question) or not spoken_words(pair.answer):
            left_out["without words"] += 1
        elif max(len(spoken_words(pair.question)), len(spoken_words(pair.answer))) > max_words:
            left_out["too long"] += 1
        elif pair in seen:
            left_out["there twice"] += 1
        else:
            seen.add(pair)
            yield pair
    if refusal is not None and left_out["of another language"] == len(rows):
        raise InputError(f"{file}: {refusal}")


def _dialogs(pair: _Pair, copies: int, dev_share: float, test_share: float, seed: int) -> Iterator[dict[str, Any]]:
    drawn = _draw(f"{seed}/{pair.question}")
    split = "test" if drawn < test_share else "dev" if drawn < test_share + dev_share else "train"
    name = hashlib.sha256(f"{pair.question}\n{pair.answer}".encode()).hexdigest()[:12]
    turns = [{"role": "user", "text": pair.question}, {"role": "agent", "text": pair.answer}]
    for copy in range(copies if split == "train" else 1):
        yield {"dialog": f"question-{name}-{copy}", "split": split, "services": ["questions"], "turns": turns}


def _draw(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
