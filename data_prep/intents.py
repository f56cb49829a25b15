"""Published intent sets as dialogs of one turn each, with labels: CLINC150, Banking77, SNIPS.

Each query is a user turn that stands alone, so that it can be spoken (`synthesize_corpus`) and made units of
(`extract_units`) like any dialog, or be read as text.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usdm.data.labels import LABELS_FILE, labels_text
from usdm.interleave import keyed_generator
from usdm.runs import arguments_of, claim, write_text
from usdm.tokens.spoken_text import spoken_text
from usdm.types import InputError

DIALOGS_FILE = "dialogs.jsonl"
OUT_OF_SCOPE = "out_of_scope"  # label of queries that are none of a set's intents
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Query:
    """What somebody asked, and for what."""

    text: str  # as published
    intent: str
    domain: str  # the same as the intent where a set has no domains
    split: str  # train, dev or test; "train or dev" where the set leaves that open


@dataclass(frozen=True)
class Clinc150:
    """CLINC150 (arXiv 1909.02027): `data_full.json` and `domains.json`, gzipped or not. 150 intents in 10 domains."""

    folder: str | Path

    def read(self) -> Iterator[Query]:
        domains = {
            intent: domain for domain, intents in _json(self.folder, "domains.json").items() for intent in intents
        }
        for name, pairs in _json(self.folder, "data_full.json").items():
            split = {"train": "train", "val": "dev", "test": "test"}[name.removeprefix("oos_")]
            for text, intent in pairs:
                is_out = name.startswith("oos_")
                yield Query(
                    text, OUT_OF_SCOPE if is_out else intent, OUT_OF_SCOPE if is_out else domains[intent], split
                )


@dataclass(frozen=True)
class Banking77:
    """Banking77 (arXiv 2003.04807): `train.csv` and `test.csv`, gzipped or not. 77 intents of one domain."""

    folder: str | Path

    def read(self) -> Iterator[Query]:
        for name, split in (("train.csv", "train or dev"), ("test.csv", "test")):
            for row in csv.DictReader(_text(self.folder, name).splitlines()):
                yield Query(row["text"], row["category"], "banking", split)


@dataclass(frozen=True)
class Snips:
    """SNIPS (arXiv 1805.10190) as JSON lines of `split`, `intent`, `text`: `intents.jsonl`. 7 intents."""

    folder: str | Path

    def read(self) -> Iterator[Query]:
        for line in _text(self.folder, "intents.jsonl").splitlines():
            row = json.loads(line)
            split = "train or dev" if row["split"] == "train" else "test"
            yield Query(row["text"], row["intent"], row["intent"], split)


IntentSet = Clinc150 | Banking77 | Snips


@dataclass(frozen=True)
class IntentReport:
    """What was written."""

    queries: dict[str, int]  # by split
    intents: int
    without_words: int  # left out, for nothing could be spoken


def prepare_intents(
    intents: IntentSet,
    output_dir: str | Path,
    *,
    prefix: str,
    dev_share: float,
    per_intent: Mapping[str, int] | None,
    only: list[str] | None,
    seed: int,
    overwrite: bool = False,
) -> IntentReport:
    """Write `dialogs.jsonl`, one query a line, and `labels.jsonl` (`label`: the domain, `fine`: the intent).

    Args:
        intents: the set, from its published files.
        prefix: of the dialogs' names, so that several sets can lie in one corpus.
        dev_share: of the queries that the set has for training, where it has no dev split of its own.
        per_intent: at most so many queries of each intent by split, drawn by the seed; of a split that is not named,
            and of queries that are of no intent, all are taken.
        only: domains or intents that are taken; None takes all.
        overwrite: delete what other settings wrote in `output_dir`.

    Raises:
        InputError: a file is missing or not laid out as published, `only` names what is not there, `per_intent` a
            split that no set has, or `output_dir` has another set.
    """
    given = arguments_of(prepare_intents, locals(), but=("output_dir", "overwrite"))
    if wrong := {split: most for split, most in (per_intent or {}).items() if split not in SPLITS or most < 0}:
        raise InputError(f"per_intent={wrong}: give numbers of 0 or more, for {', '.join(SPLITS)}")
    with claim(
        output_dir, given.settings, given.inputs, results=(DIALOGS_FILE, LABELS_FILE), overwrite=overwrite
    ) as claimed:
        queries = _chosen(_read(intents), only)
        if any(query.split not in SPLITS for query in queries):
            random = keyed_generator(seed, 0, "dev")
            queries = [_settled(query, "dev" if random.random() < dev_share else "train") for query in queries]
        queries = _drawn(queries, per_intent or {}, seed)
        dialogs: list[dict[str, Any]] = []
        labels: list[dict[str, str]] = []
        counts: Counter[str] = Counter()
        for query in queries:
            text = spoken_text(query.text)
            if not text.strip(" .,?"):
                counts["without words"] += 1
                continue
            name = f"{prefix}-{query.split}-{counts[query.split]}"
            counts[query.split] += 1
            dialogs.append({"dialog": name, "split": query.split, "turns": [{"role": "user", "text": text}]})
            labels.append({"id": name, "label": query.domain, "fine": query.intent})
        write_text(claimed.path / DIALOGS_FILE, "".join(json.dumps(dialog) + "\n" for dialog in dialogs))
        write_text(claimed.path / LABELS_FILE, labels_text(labels))
        different = len({query.intent for query in queries})
        report = IntentReport({split: counts[split] for split in SPLITS}, different, counts["without words"])
        claimed.finish(asdict(report))
    return report


def _read(intents: IntentSet) -> list[Query]:
    """Raises InputError if the files are not laid out as published."""
    try:
        return list(intents.read())
    except InputError:
        raise  # a file is missing, which is told already
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{intents.folder}: not the files of {type(intents).__name__} as published ({error!r}); fetch them again"
        ) from error


def _chosen(queries: list[Query], only: list[str] | None) -> list[Query]:
    if only is None:
        return queries
    if not only:
        raise InputError("only=[]: name domains or intents, or give null for all")
    there = {query.intent for query in queries} | {query.domain for query in queries}
    if strange := sorted(set(only) - there):
        raise InputError(f"only={strange}: the set has no such domain or intent")
    return [query for query in queries if query.intent in only or query.domain in only]


def _settled(query: Query, split: str) -> Query:
    return query if query.split in SPLITS else Query(query.text, query.intent, query.domain, split)


def _drawn(queries: list[Query], per_intent: Mapping[str, int], seed: int) -> list[Query]:
    """In the order as published, of each intent and split as many as are wanted."""
    places: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for place, query in enumerate(queries):
        places[query.split, query.intent].append(place)
    kept: list[int] = []
    for (split, intent), own in places.items():
        order = keyed_generator(seed, 0, f"{split}/{intent}").permutation(len(own))
        wanted = len(own) if intent == OUT_OF_SCOPE else per_intent.get(split, len(own))
        kept += [own[number] for number in order[:wanted]]
    return [queries[place] for place in sorted(kept)]


def _json(folder: str | Path, name: str) -> dict[str, Any]:
    found = json.loads(_text(folder, name))
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds no object")
    return found


def _text(folder: str | Path, name: str) -> str:
    """Raises InputError if it is neither there nor there gzipped, or damaged."""
    plain = Path(folder) / name
    packed = plain.with_name(f"{name}.gz")
    opened: tuple[Callable[..., Any], Path] = (open, plain) if plain.is_file() else (gzip.open, packed)
    if not opened[1].is_file():
        raise InputError(f"{plain}: no such file, nor {packed.name}; fetch the set as its authors published it")
    try:
        with opened[0](opened[1], "rt", encoding="utf-8") as file:
            return str(file.read())
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{opened[1]} is damaged ({error}): fetch it again") from error
