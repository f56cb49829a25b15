"""Orders of learning after a human curriculum: by subject, concept and cognitive level.

Source: "Instruction Tuning with Human Curriculum" (CORGI), arXiv 2310.09518. Its levels are the lower ones of Bloom's
taxonomy. For spoken dialog they are layouts of a turn: remember is to transcribe, understand is to answer what is
typed, apply is the whole chain. In pretraining a level is a third of the utterances by length. A label's level wins.

An order says where each example of an epoch stands, and packing keeps it: rows are filled one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from usdm.data.labels import check_known
from usdm.data.unit_corpus import UnitCorpus
from usdm.types import InputError

LEVELS = ("remember", "understand", "apply")
LAYOUT_LEVELS = {"transcribe": 0, "typed": 1}  # indices of LEVELS; every other layout speaks a reply to what is heard
APPLY = 2

Item = TypeVar("Item")


class Unlabelled(NamedTuple):
    """What is known of an example before any label."""

    id: str  # of the utterance; in fine-tuning of the reply
    dialog: str
    level: int  # index of LEVELS


class Lesson(NamedTuple):
    """What an order goes by."""

    subject: str
    concept: str  # within its subject
    level: int  # index of LEVELS


@dataclass(frozen=True)
class Curriculum:
    """An order of all examples of an epoch. What it leaves open is drawn: also which subject comes first.

    Args:
        labels: JSON lines that say what each utterance or dialog is about, see `read_lessons`.

    Raises:
        InputError: there are none.
    """

    labels: Path | None = None
    exact: ClassVar[bool] = True  # packing keeps the order

    def __post_init__(self) -> None:
        if self.labels is None:
            raise InputError(f"order: {type(self).__name__} goes by what is taught: give labels=FILE, a labels.jsonl")

    def examples(self, examples: Sequence[Unlabelled], random: np.random.Generator) -> list[int]:
        """Each example's index once, in order; `random` is the epoch's own generator.

        Raises:
            InputError: an example has no label, or all have one subject.
        """
        assert self.labels is not None
        known = read_lessons(self.labels)
        lessons = [known.get(example.id) or known.get(example.dialog) for example in examples]
        if None in lessons:
            first = examples[lessons.index(None)]
            raise InputError(
                f"{self.labels}: {lessons.count(None)} of {len(lessons)} utterances have no label, the first is "
                f"{first.id} of dialog {first.dialog}; give each a line with its id or its dialog"
            )
        _check_subjects(self.labels, {lesson.subject for lesson in lessons if lesson is not None})
        whole = [
            Lesson(found.subject, found.concept, example.level if found.level is None else found.level)
            for found, example in zip(lessons, examples, strict=True)
            if found is not None
        ]
        return self.arrange(whole, random)

    def check_known(self, corpora: Iterable[UnitCorpus]) -> None:
        """Raises InputError for labels of utterances and dialogs that no corpus has in any split."""
        assert self.labels is not None
        check_known(str(self.labels), read_lessons(self.labels), set().union(*(each.names() for each in corpora)))

    def arrange(self, lessons: Sequence[Lesson], random: np.random.Generator) -> list[int]:
        """The same of lessons: a permutation of their indices."""
        raise NotImplementedError(f"{type(self).__name__} has no order")


@dataclass(frozen=True)
class Blocking(Curriculum):
    """Subject after subject; inside a subject levels rise, inside a level concept follows concept."""

    def arrange(self, lessons: Sequence[Lesson], random: np.random.Generator) -> list[int]:
        subject, concept = _drawn_places(lessons, random)
        return _sorted(lessons, lambda lesson: (subject[lesson.subject], lesson.level, concept[lesson[:2]]), random)


@dataclass(frozen=True)
class Spiral(Curriculum):
    """Subject after subject at the lowest level, then all of them again one level higher."""

    def arrange(self, lessons: Sequence[Lesson], random: np.random.Generator) -> list[int]:
        subject, concept = _drawn_places(lessons, random)
        return _sorted(lessons, lambda lesson: (lesson.level, subject[lesson.subject], concept[lesson[:2]]), random)


@dataclass(frozen=True)
class Interleaving(Curriculum):
    """Levels rise over the whole epoch; at each level subjects take turns, and in a subject its concepts do.

    Args:
        descending: levels fall, against the curriculum.
    """

    descending: bool = False

    def arrange(self, lessons: Sequence[Lesson], random: np.random.Generator) -> list[int]:
        shuffled = random.permutation(len(lessons)).tolist()
        levels = _groups(shuffled, lambda index: lessons[index].level)
        order: list[int] = []
        for level in sorted(levels, reverse=self.descending):
            subjects = _groups(levels[level], lambda index: lessons[index].subject)
            turns = [
                round_robin(_groups(members, lambda index: lessons[index].concept).values())
                for members in subjects.values()
            ]
            order += round_robin(turns)
        return order


class Known(NamedTuple):
    """What labels say of an utterance or a dialog."""

    subject: str
    concept: str
    level: int | None


def read_lessons(path: str | Path) -> dict[str, Known]:
    """By id of an utterance or a dialog. A line is `{"id": ..., "label": subject, "fine": concept, "level": level}`.

    `fine` and `level` may be missing; `usdm.data.labels` and `usdm prepare_dialogs` have the same format.

    Raises:
        InputError: the file is missing, has a line that is no label or an id twice, or has one subject alone.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"labels={path}: no such file; give the labels.jsonl that lies beside a corpus' dialogs")
    known: dict[str, Known] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            level = None if row.get("level") is None else LEVELS.index(row["level"])
            name, label, fine = row["id"], row["label"], row.get("fine", "")
            if not all(isinstance(each, str) for each in (name, label, fine)):
                raise TypeError("id, label and fine are texts")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}, line {number}: not a label ({error!r}); it needs id and label, and may have a level of "
                f"{', '.join(LEVELS)}"
            ) from error
        if name in known:
            raise InputError(f"{path}, line {number}: {name} was labelled before; keep one of the lines")
        known[name] = Known(label, fine, level)
    _check_subjects(path, {each.subject for each in known.values()})
    return known


def _check_subjects(labels: Path, subjects: Collection[str]) -> None:
    """Raises InputError where there is nothing to tell apart. `subjects`: of what is learnt, or of all labels."""
    if len(subjects) < 2:
        raise InputError(f"{labels}: one subject alone ({', '.join(subjects)}); an order of subjects needs two or more")


def levels_by_length(lengths: Sequence[int]) -> list[int]:
    """Thirds: the shortest are of the lowest level. Equal lengths stay in their order."""
    levels = np.empty(len(lengths), int)
    levels[np.argsort(lengths, kind="stable")] = np.arange(len(lengths)) * len(LEVELS) // max(len(lengths), 1)
    return list(levels.tolist())


def round_robin(members: Iterable[Sequence[Item]]) -> list[Item]:
    """One of each in turn; those that have none left are passed over."""
    missing = object()
    turns = zip_longest(*members, fillvalue=missing)
    return [item for turn in turns for item in turn if item is not missing]  # type: ignore[misc]


def _groups(indices: Iterable[int], key: Callable[[int], Hashable]) -> dict[Any, list[int]]:
    """In the order in which the keys are met."""
    groups: dict[Any, list[int]] = {}
    for index in indices:
        groups.setdefault(key(index), []).append(index)
    return groups


def _sorted(
    lessons: Sequence[Lesson], key: Callable[[Lesson], tuple[int, int, int]], random: np.random.Generator
) -> list[int]:
    shuffled: list[int] = random.permutation(len(lessons)).tolist()
    return sorted(shuffled, key=lambda index: key(lessons[index]))


def _drawn_places(
    lessons: Sequence[Lesson], random: np.random.Generator
) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Which place each subject has, and each concept of a subject."""
    subjects = sorted({lesson.subject for lesson in lessons})
    concepts = sorted({(lesson.subject, lesson.concept) for lesson in lessons})
    return (
        dict(zip(subjects, random.permutation(len(subjects)).tolist(), strict=True)),
        dict(zip(concepts, random.permutation(len(concepts)).tolist(), strict=True)),
    )
