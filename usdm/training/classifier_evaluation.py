"""`evaluate_classifier`: how often a classifier is right, and how well scores tell what it has not learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from usdm.data.labels import Labels
from usdm.data.user_turns import UserTurn, read_user_turns, with_labels
from usdm.metrics.intervals import Mean, mean_of
from usdm.metrics.out_of_domain import Detector, Separation, separation
from usdm.metrics.table import markdown_table, mean_cell
from usdm.training.classifier import LoadedClassifier, check_units_heard, load_classifier
from usdm.types import InputError

HELD_OUT = "held-out classes"
Group = tuple[Tensor, Tensor]  # features (N, W), logits (N, C)


@dataclass(frozen=True)
class DetectorRow:
    """One score on one set of turns outside."""

    outside: str
    detector: str
    separation: Separation


@dataclass(frozen=True)
class ClassifierFigures:
    """Of one classifier."""

    accuracy: Mean  # on test turns of the known classes
    classes: int
    hears: str
    rows: tuple[DetectorRow, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def to_markdown(self) -> str:
        """A table, one line a score and a set of turns outside."""
        lines = [
            [
                row.outside,
                row.detector,
                *(_cell(value) for value in _three(row.separation)),
                str(row.separation.outside),
            ]
            for row in self.rows
        ]
        accuracy = f"Accuracy {mean_cell(self.accuracy)} on {self.accuracy.items} turns of {self.classes} classes."
        header = ["outside", "score", "AUROC", "FPR at 95 %", "AUPR", "turns"]
        return f"{accuracy}\n\n{markdown_table(header, lines)}\n" if lines else f"{accuracy}\n"


def evaluate_classifier(
    classifier: str | Path,
    corpora: Sequence[str | Path],
    labels: str | Path,
    detectors: Mapping[str, Detector],
    *,
    out: Mapping[str, Sequence[str | Path]],
    hears: str | None,
    base: str | Path | None,
    seed: int,
) -> ClassifierFigures:
    """On split "test" of the labelled corpora, under 95 % intervals.

    Outside are: the turns of every label that was left out in training (near), those of the labels that were drawn to
    be held out (near), and all of the corpora `out` (far, if they are of another domain). Scores learn from the
    features of split "train", of the known classes alone.

    Args:
        classifier: folder that `train_classifier` wrote.
        detectors: scores, by name.
        out: corpora of turns outside, by a name.
        hears: how turns are heard; None: as in training.
        base: where the language model lies, if it was moved.

    Raises:
        InputError: no label is one of the classifier's classes, a corpus has no turn of split "test", the labelled ones
            have none of split "train", the model does not know their units, or what loading raises.
    """
    loaded = load_classifier(classifier, base)
    config = loaded.config
    heard = [(places, hears or config.hears) for places in (corpora, *out.values())]
    check_units_heard(heard, config.base)
    labelled = with_labels(read_user_turns(corpora), Labels.load(labels, config.label_key))
    if not {label for _, label in labelled} & set(config.classes):
        raise InputError(
            f"{labels}: none of its labels is a class of {classifier} ({', '.join(config.classes[:5])}, ...); give "
            "the labels that it has learnt, or some of them"
        )
    place = {name: number for number, name in enumerate(config.classes)}
    inside, train = (_inside(labelled, split, config.classes) for split in ("test", "train"))
    groups = {name: _of(labelled, "test", [name]) for name in config.left_out}
    groups[HELD_OUT] = _of(labelled, "test", config.held_out)
    groups = {name: turns for name, turns in groups.items() if turns}
    for name, places in out.items():
        groups[name] = [(turn, "") for turn in read_user_turns(places) if turn.split == "test"]
        if not groups[name]:
            raise InputError(f"out.{name}={list(places)}: no turn of split 'test' is in it")
    known, truth = _heard(loaded, inside, hears), torch.tensor([place[label] for _, label in inside])
    right = (known[1].argmax(1).cpu() == truth).float().tolist()
    accuracy = mean_of(right, [turn.dialog for turn, _ in inside], seed)
    assert accuracy is not None
    learnt = _heard(loaded, train, hears)[0]
    scorers = {
        name: detector.fit(learnt, torch.tensor([place[label] for _, label in train]))
        for name, detector in detectors.items()
    }
    rows = []
    for outside, turns in groups.items():
        theirs = _heard(loaded, turns, hears)
        for name, scorer in scorers.items():
            figures = separation(scorer(*known).tolist(), scorer(*theirs).tolist(), seed)
            rows.append(DetectorRow(outside, name, figures))
    return ClassifierFigures(accuracy, len(config.classes), hears or config.hears, tuple(rows))


def _of(labelled: Sequence[tuple[UserTurn, str]], split: str, labels: Sequence[str]) -> list[tuple[UserTurn, str]]:
    wanted = set(labels)
    return [(turn, label) for turn, label in labelled if turn.split == split and label in wanted]


def _inside(labelled: Sequence[tuple[UserTurn, str]], split: str, classes: Sequence[str]) -> list[tuple[UserTurn, str]]:
    found = _of(labelled, split, classes)
    if not found:
        raise InputError(
            f"no turn of split {split!r} is of a class that was learnt ({', '.join(classes[:5])}): test is judged, and "
            "scores learn from train; give corpora and labels that have both"
        )
    return found


def _heard(loaded: LoadedClassifier, turns: Sequence[tuple[UserTurn, str]], hears: str | None) -> Group:
    features = loaded.features([turn for turn, _ in turns], hears)
    return features.cpu(), loaded.predict(features).logits.cpu()


def _three(found: Separation) -> tuple[tuple[float, float, float], ...]:
    return found.auroc, found.fpr95, found.aupr


def _cell(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"
