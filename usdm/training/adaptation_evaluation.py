"""A turn classifier in its target domain: known classes named, unknown ones told, no threshold from what is tested."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from usdm.data.labels import Labels
from usdm.data.user_turns import UserTurn, read_user_turns, with_labels
from usdm.metrics.open_set import UNKNOWN, OpenSetScore, open_set_score, threshold_that_keeps
from usdm.metrics.table import markdown_table
from usdm.training.classifier import LoadedClassifier, check_heard, check_units_heard, classes_to_learn
from usdm.types import InputError


@dataclass(frozen=True)
class AdaptationScore:
    target: OpenSetScore
    source_accuracy: float  # on its dev turns, all taken for known
    threshold: float | None  # that keeps 95 % of the source's dev turns; None: the method decides by itself
    common: list[str]  # classes of the source that the target's test turns have
    turns: int  # of the target, tested

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def to_markdown(self) -> str:
        found = self.target
        figures = (found.h_score, found.known, found.unknown, found.auroc, self.source_accuracy)
        header = ["H-score", "known", "unknown", "AUROC", "source's accuracy", "turns"]
        return markdown_table(header, [[*(f"{100 * each:.1f} %" for each in figures), str(self.turns)]]) + "\n"


def check_target(
    model: str | Path,
    corpora: Sequence[str | Path],
    labels: str | Path,
    target: Sequence[str | Path],
    target_labels: str | Path,
    *,
    label_key: str,
    left_out: Sequence[str],
    held_out_share: float,
    seed: int,
    target_hears: str,
    split: str,
) -> None:
    """Raises InputError for a target that `evaluate_adaptation` could not judge, before anything is trained."""
    check_units_heard([(target, target_hears)], model)
    labelled = with_labels(read_user_turns(corpora), Labels.load(labels, label_key))
    classes, _ = classes_to_learn(labelled, left_out, held_out_share, seed)
    theirs = _target_turns(target, target_labels, label_key, split, classes)
    check_heard(target_hears, [turn for turn, _ in theirs])


def evaluate_adaptation(
    classifier: LoadedClassifier,
    corpora: Sequence[str | Path],
    labels: str | Path,
    target: Sequence[str | Path],
    target_labels: str | Path,
    *,
    target_hears: str | None = None,
    split: str = "test",
) -> AdaptationScore:
    """Judge the target's turns of a split, all at once.

    Args:
        corpora, labels: of the source; its dev turns set the threshold for methods that have none of their own.
        target, target_labels: classes that the classifier does not have are unknown ones.

    Raises:
        InputError: no class is common, none of the target is unknown, or a side has no turn.
    """
    key = classifier.config.label_key
    classes = classifier.config.classes
    ours = _of_split(with_labels(read_user_turns(corpora), Labels.load(labels, key)), "dev")
    ours = [(turn, label) for turn, label in ours if label in classes]
    theirs = _target_turns(target, target_labels, key, split, classes)
    common = sorted({label for _, label in theirs} & set(classes))
    judged = classifier.predict(classifier.features([turn for turn, _ in theirs], target_hears))
    at_home = classifier.predict(classifier.features([turn for turn, _ in ours]))
    right = [classes[place] == label for place, (_, label) in zip(at_home.logits.argmax(1), ours, strict=True)]
    threshold, is_known = None, judged.is_known
    if is_known is None:
        threshold = threshold_that_keeps(at_home.known.tolist())
        is_known = judged.known >= threshold
    truth = [classes.index(label) if label in classes else UNKNOWN for _, label in theirs]
    score = open_set_score(truth, judged.logits.argmax(1).tolist(), is_known.tolist(), judged.known.tolist())
    return AdaptationScore(score, sum(right) / len(right), threshold, common, len(theirs))


def _target_turns(
    target: Sequence[str | Path], labels: str | Path, key: str, split: str, classes: Sequence[str]
) -> list[tuple[UserTurn, str]]:
    found = _of_split(with_labels(read_user_turns(target), Labels.load(labels, key)), split)
    theirs = {label for _, label in found}
    if not theirs & set(classes):
        raise InputError(f"{labels}: no common class; the classifier knows {', '.join(classes)} alone")
    if not theirs - set(classes):
        raise InputError(
            f"{labels}: no turn is of unknown classes, for the source has all of {', '.join(sorted(theirs))}; give "
            "labels of some that it lacks"
        )
    return found


def _of_split(labelled: Sequence[tuple[UserTurn, str]], split: str) -> list[tuple[UserTurn, str]]:
    found = [(turn, label) for turn, label in labelled if turn.split == split]
    if not found:
        raise InputError(f"split={split}: no labelled turn of it; give another split, or other corpora")
    return found
