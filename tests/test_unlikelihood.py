"""Unlikelihood of loops of units: which units are in one, the loss by hand, and a model that loops less."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_lm_training import (  # noqa: F401 (fixtures)
    SETTINGS,
    TEMPLATE,
    corpus,
    quick_runs,
    read_log,
    tiny_model,
    vocabulary,
)

from usdm.data.collation import collate_rows, with_kinds
from usdm.data.packing import build_row
from usdm.data.sequences import KIND_INDEX, TrainingSequence
from usdm.tokens import SpeechTextVocabulary
from usdm.training.language_model import finetune
from usdm.training.objectives import NextToken
from usdm.training.unlikelihood import Unlikelihood, in_loops
from usdm.types import InputError


def test_units_in_loops() -> None:
    units = [1, 2, 3, 9, 1, 2, 3, 4]
    assert in_loops(units, 3) == [False] * 4 + [True] * 3 + [False]
    assert in_loops([5] * 8, 3) == [False] * 8  # a pause
    assert in_loops([1, 2] * 3, 2) == [False] * 2 + [True] * 4
    assert in_loops([1, 2], 3) == [False, False]


def test_the_loss_is_that_of_the_definition(vocabulary: SpeechTextVocabulary) -> None:  # noqa: F811
    rng = np.random.default_rng(0)
    first = vocabulary.layout.unit_offset
    ids = np.concatenate([rng.integers(3, 300, 5), first + rng.integers(0, 20, 15)]).astype(np.int32)
    kinds = np.array([KIND_INDEX["text"]] * 5 + [KIND_INDEX["agent_units"]] * 15, np.int8)
    batch = with_kinds(collate_rows, [build_row([TrainingSequence(ids, ids.copy(), kinds)], 24, vocabulary.pad_id)])
    model = tiny_model(vocabulary)
    objective = Unlikelihood(weight=0.5, ngram=2, given=3, written=20).knowing(vocabulary)

    prompt = ids[:8].tolist()
    sequence = list(prompt)
    for _ in range(20):  # greedily among units, without a cache
        logits = model(torch.tensor([sequence])).logits.detach()[0, -1, first : first + 20]
        sequence.append(first + int(logits.argmax()))
    loops = in_loops(sequence[8:], 2)
    probabilities = model(torch.tensor([sequence])).logits.detach()[0].softmax(-1)
    terms = [-float(torch.log(1 - probabilities[7 + i, sequence[8 + i]])) for i, looped in enumerate(loops) if looped]
    assert len(terms) > 3
    expected = NextToken().loss(model, batch, None).item() + 0.5 * 19 * sum(terms) / len(terms)
    assert objective.loss(model, batch, None).item() == pytest.approx(expected, rel=1e-5)
    assert objective.amount(batch) == 19
    looped = objective.validate(model, batch, None)["looped"]
    assert looped.tolist() == [sum(loops), 20]


def test_a_model_that_loops_learns_not_to(vocabulary: SpeechTextVocabulary) -> None:  # noqa: F811
    first = vocabulary.layout.unit_offset
    ids = np.array([5, 6, 7, *[first + 1, first + 2, first + 3] * 6], np.int32)
    kinds = np.array([KIND_INDEX["text"]] * 3 + [KIND_INDEX["agent_units"]] * 18, np.int8)
    batch = with_kinds(collate_rows, [build_row([TrainingSequence(ids, ids.copy(), kinds)], 24, vocabulary.pad_id)])
    model = tiny_model(vocabulary)

    def looped_after(weight: float, steps: int) -> float:
        objective = Unlikelihood(weight=weight, ngram=3, given=3, written=12).knowing(vocabulary)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            (objective.loss(model, batch, None) / objective.amount(batch)).backward()
            optimizer.step()
        part, whole = objective.validate(model, batch, None)["looped"].tolist()
        return part / whole

    assert looped_after(0.0, 40) == 0.75  # all but the first three
    assert looped_after(10.0, 25) < 0.5


def test_a_run_tells_how_much_is_in_loops(vocabulary: SpeechTextVocabulary, corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    settings = dataclasses.replace(SETTINGS, steps=2, validate_every=None, save_every=2)
    objective = Unlikelihood(ngram=2, given=2, written=6, sequences=1)
    model, run = tiny_model(vocabulary), tmp_path / "run"
    figures = finetune(model, vocabulary, [corpus], run, settings, template=TEMPLATE, objective=objective)
    assert 0 <= figures["looped"] <= 1 and read_log(run)[-1]["validation/looped"] == figures["looped"]


def test_numbers_that_cannot_be() -> None:
    with pytest.raises(InputError, match="more units written than a run has"):
        Unlikelihood(ngram=6, written=6)
    with pytest.raises(InputError, match="weight of 0 or more"):
        Unlikelihood(weight=-1.0)
