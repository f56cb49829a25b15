"""The loss of a fine-tuned model by what its dialogs are about: what it learnt, and what it forgot again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from usdm.data.curriculum import Known, read_lessons
from usdm.data.dialogs import DialogSequences, read_dialogs
from usdm.data.sequences import KINDS, TrainingSequence
from usdm.data.unit_corpus import UnitCorpus
from usdm.metrics.facts import surroundings
from usdm.metrics.intervals import Counted, ratio_of
from usdm.metrics.table import markdown_table
from usdm.tokens import DialogTemplate
from usdm.training.perplexity import summed_losses
from usdm.types import InputError, Role

ALL = "all"  # subjects together
SCORED = ("transcript", "agent_text", "agent_units")


@dataclass(frozen=True)
class Loss:
    """Nats a token."""

    mean: float
    low: float  # 95 % interval, bootstrap over dialogs
    high: float


@dataclass(frozen=True)
class SubjectLoss:
    loss: Loss  # of all tokens
    kinds: Mapping[str, Loss]  # those of `SCORED` that the replies have
    replies: int


@dataclass(frozen=True)
class SubjectLosses:
    subjects: Mapping[str, SubjectLoss]  # and `ALL`
    facts: Mapping[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        rows = [
            [name, *(_shown(each.kinds.get(kind)) for kind in SCORED), _shown(each.loss), str(each.replies)]
            for name, each in self.subjects.items()
        ]
        asked = ", ".join(f"{name} {value}" for name, value in self.facts["asked"].items())
        header = ["subject", "transcript", "reply's text", "reply's units", "all, nats a token (95 %)", "replies"]
        return f"{markdown_table(header, rows)}\n\nAsked: {asked}.\n"


def check_subjects(
    corpora: Sequence[str | Path], labels: str | Path, *, split: str, agent_roles: Sequence[Role], limit: int | None
) -> None:
    """Raises InputError for what `subject_losses` could not tell apart, before anything is trained."""
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}: give 1 reply of a subject or more, or null for all")
    known = read_lessons(labels)
    dialogs, _ = read_dialogs(UnitCorpus(corpora), split)
    turns = [pair for dialog in dialogs for pair in pairwise(dialog)]
    replies = [turn for before, turn in turns if turn.role in agent_roles and turn.role != before.role]
    if not replies:
        raise InputError(f"split={split}: no turn of {' or '.join(agent_roles)} answers another speaker in it")
    for reply in replies:
        _lesson(known, labels, reply.id, reply.dialog)


def _lesson(known: Mapping[str, Known], labels: str | Path, id_: str, dialog: str) -> Known:
    lesson = known.get(id_) or known.get(dialog)
    if lesson is None:
        raise InputError(f"{labels}: no label for {id_} of dialog {dialog}; give it a line with its id or dialog")
    return lesson


def subject_losses(
    model: PreTrainedModel,
    template: DialogTemplate,
    corpora: Sequence[str | Path],
    labels: str | Path,
    *,
    max_length: int,
    split: str = "dev",
    agent_roles: Sequence[Role] = ("agent",),
    history_turns: int = 0,
    batch_size: int = 8,
    limit: int | None = None,
    seed: int = 0,
) -> SubjectLosses:
    """Losses of the whole chain, teacher-forced, on the replies of a split.

    Args:
        labels: what each utterance or dialog is about, as for `usdm.data.curriculum`.
        max_length: longer sequences are left out.
        limit: replies of each subject, drawn; None takes all.

    Raises:
        InputError: a reply has no label, or the split holds none.
    """
    known = read_lessons(labels)
    source = DialogSequences(
        UnitCorpus(corpora),
        template,
        max_length,
        split=split,
        seed=seed,
        agent_roles=agent_roles,
        history_turns=history_turns,
    )
    by_subject: dict[str, list[int]] = {}
    for index in (index for block in source.blocks(0) for index in block):
        by_subject.setdefault(_lesson(known, labels, *source.names(index)).subject, []).append(index)
    model.eval()
    counted: dict[str, list[_Counted]] = {}
    for subject, indices in sorted(by_subject.items()):
        drawn: list[tuple[str, TrainingSequence]] = [
            (source.names(index)[1], sequence)
            for index in islice(indices, limit)
            for sequence in source.sequences(0, [index], 0)
        ]
        sums = summed_losses(model, [each for _, each in drawn], batch_size, template.vocabulary.pad_id)
        counted[subject] = [_Counted(dialog, found) for (dialog, _), found in zip(drawn, sums, strict=True)]
    counted = {subject: rows for subject, rows in counted.items() if rows}
    if not counted:
        raise InputError(f"split={split}: no reply fits {max_length} ids; give a larger loop.max_length")
    counted[ALL] = [row for rows in counted.values() for row in rows]
    asked = {"split": split, "limit": limit, "left out": source.left_out, "seed": seed}
    subjects = {subject: _subject_loss(rows, seed) for subject, rows in counted.items()}
    return SubjectLosses(subjects, {"asked": asked, **surroundings()})


@dataclass(frozen=True)
class _Counted:
    """One reply."""

    dialog: str
    sums: list[tuple[float, float]]  # for each of KINDS: summed loss, and tokens


def _subject_loss(rows: Sequence[_Counted], seed: int) -> SubjectLoss:
    kinds = {kind: _loss(rows, [KINDS.index(kind)], seed) for kind in SCORED}
    whole = _loss(rows, range(len(KINDS)), seed)
    assert whole is not None  # every reply has tokens
    return SubjectLoss(whole, {name: loss for name, loss in kinds.items() if loss is not None}, len(rows))


def _loss(rows: Sequence[_Counted], kinds: Sequence[int], seed: int) -> Loss | None:
    counted: list[Counted] = [
        (row.dialog, (sum(row.sums[kind][0] for kind in kinds), sum(row.sums[kind][1] for kind in kinds)))
        for row in rows
    ]
    found = ratio_of([row for row in counted if row[1][1]], seed)
    return None if found is None else Loss(*found)


def _shown(loss: Loss | None) -> str:
    return "" if loss is None else f"{loss.mean:.3f} ({loss.low:.3f} to {loss.high:.3f})"
