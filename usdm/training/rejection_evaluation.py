"""`evaluate_rejection`: what a model refuses, by itself and by each score, inside and outside of its domain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from usdm.chain import Answer, LanguageModelChain, Question, SpokenDialogPipeline
from usdm.chain.rejection import SCORES, Evidence, EvidenceReader, Rejection, all_scores, heard_turn
from usdm.data.extraction import unit_source
from usdm.data.user_turns import UserTurn, check_units, read_user_turns
from usdm.interleave import keyed_generator
from usdm.lm import ContinuousBatch
from usdm.metrics.intervals import Mean, mean_of
from usdm.metrics.out_of_domain import Separation, separation
from usdm.metrics.table import NONE, markdown_table, mean_cell
from usdm.metrics.text import says
from usdm.tokens import TurnContent
from usdm.tokens.spoken_text import spoken_words
from usdm.types import InputError

ITSELF = "the model itself"


@dataclass(frozen=True)
class RefusalRow:
    """One way to refuse."""

    score: str
    separation: Separation | None  # of turns inside and those outside that have words; None of the model itself
    at_equal: Mean | None  # refused outside by the score alone, at no more false alarms than the model has by itself
    false_alarms: Mean  # refused inside, by the model itself or by the fitted threshold
    words: Mean | None  # refused outside so, of turns with words
    noise: Mean | None  # and of turns without


@dataclass(frozen=True)
class RefusalFigures:
    """Of one model."""

    inside: int
    outside: int
    rows: tuple[RefusalRow, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def to_markdown(self) -> str:
        """A table, one line a way to refuse."""
        header = ["refused by", "AUROC", "alone, at equal false alarms", "false alarms", "outside", "noise"]
        lines = [
            [
                row.score if row.separation is None else f"{ITSELF}, or {row.score}",
                NONE if row.separation is None else "{:.3f} ({:.3f} to {:.3f})".format(*row.separation.auroc),
                mean_cell(row.at_equal),
                mean_cell(row.false_alarms),
                mean_cell(row.words),
                mean_cell(row.noise),
            ]
            for row in self.rows
        ]
        return f"{self.inside} turns inside, {self.outside} outside.\n\n{markdown_table(header, lines)}\n"


@dataclass(frozen=True)
class _Judged:
    """Of some turns."""

    turns: list[UserTurn]
    refused: np.ndarray  # (N,) bool, by the model itself
    scores: dict[str, Tensor]  # (N,) each


def evaluate_rejection(
    pipeline: SpokenDialogPipeline,
    folder: str | Path,
    corpora: Sequence[str | Path],
    outside: Sequence[str | Path],
    *,
    refused_dialogs: Sequence[str],
    phrase: str,
    turns: int | None,
    capacity: int,
    seed: int,
) -> RefusalFigures:
    """On the user turns of split "test", heard and answered as text by the model itself.

    Args:
        folder: what `fit_rejection` has written.
        corpora: units of turns inside; dialogs whose names begin with one of `refused_dialogs` are left out.
        outside: units of turns outside.
        phrase: of replies that refuse.
        turns: inside, drawn by the seed; None takes all.
        capacity: replies that are written at once.

    Raises:
        InputError: there are no turns of split "test", their units are not the model's, none outside has words, or
            nothing was fitted for the model in `folder`.
    """
    if turns is not None and turns < 1:
        raise InputError(f"turns={turns}: give 1 turn inside or more, or null for all")
    check_units([*corpora, *outside], unit_source(pipeline.parts.units), str(pipeline.folders["units"]))
    rejection = Rejection.load(folder, pipeline.folders["llm"], scales=pipeline.folders.get("scales"))
    reader = EvidenceReader(pipeline.parts.llm, pipeline.parts.template, rejection.config.reply)
    found = [turn for turn in _of_test(corpora) if not turn.dialog.startswith(tuple(refused_dialogs))]
    order = keyed_generator(seed, 0, "test").permutation(len(found))[:turns]
    away = _of_test(outside)
    has_words = np.array([bool(spoken_words(turn.text)) for turn in away])
    if not has_words.any():
        raise InputError(
            f"outside={[str(corpus) for corpus in outside]}: none of its {len(away)} turns has words, and noise alone "
            "does not say how turns are told apart; give some with words beside it"
        )
    ours = _judge(pipeline, rejection, reader, [found[place] for place in order], phrase, capacity)
    theirs = _judge(pipeline, rejection, reader, away, phrase, capacity)
    rows = [_row(ITSELF, ours, theirs, has_words, None, seed)]
    thresholds = rejection.config.limits[pipeline.parts.template.layout().name].thresholds
    rows += [_row(score, ours, theirs, has_words, thresholds[score], seed) for score in SCORES]
    return RefusalFigures(len(ours.turns), len(theirs.turns), tuple(rows))


def _of_test(corpora: Sequence[str | Path]) -> list[UserTurn]:
    found = [turn for turn in read_user_turns(corpora) if turn.split == "test"]
    if not found:
        raise InputError(f"{[str(corpus) for corpus in corpora]}: no user turn of split 'test' is in it")
    return found


def _judge(
    pipeline: SpokenDialogPipeline,
    rejection: Rejection,
    reader: EvidenceReader,
    turns: list[UserTurn],
    phrase: str,
    capacity: int,
) -> _Judged:
    chain = pipeline.own_chain()
    answers = dict(_answers(pipeline, chain, turns, capacity))
    parts: list[Evidence] = []
    for place, turn in enumerate(turns):
        heard = pipeline.parts.template.transcript_ids(answers[place].user_text or "")
        parts.append(reader([heard_turn(pipeline.parts.template, chain.name, TurnContent(turn.units), heard)]))
    whole = Evidence(*(torch.cat([getattr(part, name) for part in parts]) for name in Evidence.__dataclass_fields__))
    scores = all_scores(whole, rejection.gaussians[chain.name], rejection.config.limits[chain.name])
    refused = np.array([says(answers[place].agent_text or "", phrase) for place in range(len(turns))])
    return _Judged(turns, refused, scores)


def _answers(
    pipeline: SpokenDialogPipeline, chain: LanguageModelChain, turns: Sequence[UserTurn], capacity: int
) -> Iterator[tuple[int, Answer]]:
    """By the turns' places: two corpora may have the same ids."""
    sampling = pipeline.settings.sampling
    programs = (
        (place, chain.program(Question(units=turn.units), sampling, speak=False)) for place, turn in enumerate(turns)
    )
    for place, answer in ContinuousBatch(pipeline.parts.llm, capacity).run(programs):
        if isinstance(answer, Exception):
            raise answer
        yield place, answer


def _row(
    score: str, ours: _Judged, theirs: _Judged, has_words: np.ndarray, threshold: float | None, seed: int
) -> RefusalRow:
    """`threshold` None: the model itself."""
    told = at_equal = None
    inside, outside = ours.refused, theirs.refused
    if threshold is not None:
        own, other = ours.scores[score].double().numpy(), theirs.scores[score].double().numpy()
        told = separation(own.tolist(), other[has_words].tolist(), seed)
        alarms = int(ours.refused.sum())  # so many turns inside may lie below the threshold
        equal = np.sort(own)[alarms] if alarms < len(own) else np.inf
        at_equal = _share(other < equal, theirs.turns, has_words, seed)
        inside, outside = inside | (own < threshold), outside | (other < threshold)
    false_alarms = _share(inside, ours.turns, np.ones(len(inside), bool), seed)
    assert false_alarms is not None
    words, noise = (_share(outside, theirs.turns, which, seed) for which in (has_words, ~has_words))
    return RefusalRow(score, told, at_equal, false_alarms, words, noise)


def _share(refused: np.ndarray, turns: Sequence[UserTurn], which: np.ndarray, seed: int) -> Mean | None:
    chosen = [(float(value), turn.dialog) for value, turn, wanted in zip(refused, turns, which, strict=True) if wanted]
    return mean_of([value for value, _ in chosen], [dialog for _, dialog in chosen], seed)
