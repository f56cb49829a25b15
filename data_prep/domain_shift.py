"""A labelled source and an unlabelled target that share some classes: settings of universal domain adaptation.

The shift lies in finer classes (each common class' are halved, as the published split of CLINC150 does it; arXiv
2310.14849), in how turns are given (typed, spoken), or in who speaks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from usdm.data.labels import LABELS_FILE, Labels, check_known, labels_text
from usdm.data.unit_corpus import UnitCorpus, UnitCorpusWriter
from usdm.data.user_turns import read_user_turns
from usdm.interleave import keyed_generator
from usdm.runs import arguments_of, claim, write_text
from usdm.runs.publish import remove
from usdm.types import InputError

SIDES = ("source", "target")
SHIFT_FILE, DIALOGS_FILE, UNITS_FILE = "shift.json", "dialogs.jsonl", "units.parquet"


@dataclass(frozen=True)
class Shift:
    """Classes, and user turns by split."""

    common: list[str]
    source_private: list[str]
    target_private: list[str]
    source: dict[str, int]
    target: dict[str, int]


def prepare_shift(
    corpus: str | Path,
    labels: str | Path,
    output_dir: str | Path,
    *,
    target_corpus: str | Path | None,
    common: int,
    source_private: int,
    target_private: int,
    halved: bool,
    without: Sequence[str],
    source_speakers: Sequence[str] | None,
    target_speakers: Sequence[str] | None,
    seed: int,
    overwrite: bool = False,
) -> Shift:
    """Write `source/` and `target/` into `output_dir`, each with a corpus and `labels.jsonl`, and `shift.json`.

    Dialogs of common classes are in one of the two, so that no turn is on both sides.

    Args:
        corpus: a `dialogs.jsonl`, or a folder of units.
        labels: of its dialogs, and of the target's.
        target_corpus: the same dialogs in another form, for example spoken; None takes `corpus`.
        common, source_private, target_private: how many classes, drawn by the seed.
        halved: the `fine` classes of each common one are divided; else its dialogs are, anyhow.
        without: labels that take no part.
        source_speakers, target_speakers: whose turns are taken, of units; None takes everybody's.
        overwrite: delete another shift in `output_dir`.

    Raises:
        InputError: no class is common, the source has one class alone, there are not as many classes, a label is of no
            dialog, speakers are named of text, or a side has no turn of a split that it needs.
    """
    given = arguments_of(prepare_shift, locals(), but=("output_dir", "overwrite"))
    if common < 1:
        raise InputError(f"common={common}: no common class, so that nothing of the source holds in the target; give 1")
    if min(source_private, target_private) < 0:
        raise InputError(f"source_private={source_private}, target_private={target_private}: give 0 or more classes")
    if common + source_private < 2:
        raise InputError(f"common={common}, source_private={source_private}: the source has one class alone; give two")
    with claim(output_dir, given.settings, given.inputs, results=(*SIDES, SHIFT_FILE), overwrite=overwrite) as claimed:
        labelled = Labels.load(labels)
        spoken = {turn.dialog for turn in read_user_turns(list({corpus, target_corpus or corpus}))}
        check_known(labelled.where, labelled.by_id, spoken)
        coarse = {name: label for name, label in labelled.by_id.items() if label not in without}
        fine = Labels.load(labels, "fine").by_id if halved else {}
        classes = _drawn(coarse, fine, (common, source_private, target_private), halved, seed)
        sides = _sides(coarse, fine, classes, halved, seed)
        counts = []
        places = {"source": (corpus, source_speakers), "target": (target_corpus or corpus, target_speakers)}
        for side, (place, speakers) in places.items():
            folder = claimed.path / side
            folder.mkdir(exist_ok=True)
            dialogs = sides[side]
            counts.append(_write(Path(place), dialogs, speakers, folder))
            rows = [{"id": name, "label": coarse[name], **_fine(fine, name)} for name in sorted(counts[-1].dialogs)]
            write_text(folder / LABELS_FILE, labels_text(rows))
        for side, needed in (("source", ("train", "dev")), ("target", ("train", "test"))):
            found = counts[SIDES.index(side)].turns
            if lacking := [split for split in needed if not found.get(split)]:
                for name in SIDES:
                    remove(claimed.path / name)  # what is no shift keeps no other one out
                raise InputError(
                    f"{side}: no user turn of split {', '.join(lacking)}; take other classes, or more data"
                )
        shift = Shift(*classes, *(dict(each.turns) for each in counts))
        write_text(claimed.path / SHIFT_FILE, json.dumps(asdict(shift), indent=1) + "\n")
        claimed.finish({f"{side} turns": sum(each.turns.values()) for side, each in zip(SIDES, counts, strict=True)})
    return shift


def _drawn(
    coarse: Mapping[str, str], fine: Mapping[str, str], numbers: tuple[int, int, int], halved: bool, seed: int
) -> tuple[list[str], list[str], list[str]]:
    """Common classes, those of the source alone, those of the target alone."""
    finer: dict[str, set[str]] = {}
    for name, label in coarse.items():
        finer.setdefault(label, set()).add(fine[name] if halved else label)
    names = sorted(finer)
    order = [names[number] for number in keyed_generator(seed, 0, "classes").permutation(len(names))]
    can_be_common = [name for name in order if len(finer[name]) > 1 or not halved]
    common, ours, theirs = numbers
    if len(can_be_common) < common or len(names) < sum(numbers):
        divisible = f", {len(can_be_common)} of them with finer ones to halve" if halved else ""
        raise InputError(f"common + source_private + target_private = {sum(numbers)}: there are {len(names)} classes"
                         f"{divisible} ({', '.join(names)}); ask for fewer")  # fmt: skip
    chosen = can_be_common[:common]
    rest = [name for name in order if name not in chosen]
    return sorted(chosen), sorted(rest[:ours]), sorted(rest[ours : ours + theirs])


def _sides(
    coarse: Mapping[str, str],
    fine: Mapping[str, str],
    classes: tuple[list[str], list[str], list[str]],
    halved: bool,
    seed: int,
) -> dict[str, set[str]]:
    """The dialogs of each side."""
    common, ours, theirs = classes
    sides = {
        "source": {name for name, label in coarse.items() if label in ours},
        "target": {name for name, label in coarse.items() if label in theirs},
    }
    for label in common:
        members = sorted(name for name, each in coarse.items() if each == label)
        parts = sorted({fine[name] for name in members}) if halved else members
        order = keyed_generator(seed, 0, f"halves of {label}").permutation(len(parts))
        first = {parts[number] for number in order[: len(parts) // 2]}
        for name in members:
            sides["source" if (fine[name] if halved else name) in first else "target"].add(name)
    return sides


@dataclass(frozen=True)
class _Written:
    turns: Counter[str]  # of users, by split
    dialogs: set[str]


def _write(corpus: Path, dialogs: Collection[str], speakers: Sequence[str] | None, folder: Path) -> _Written:
    written = _Written(Counter(), set())
    if corpus.suffix == ".jsonl":
        if speakers is not None:
            raise InputError(f"{corpus}: nobody speaks in text; give speakers of a folder of units alone")
        lines = []
        for line in corpus.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["dialog"] in dialogs:
                lines.append(line + "\n")
                written.dialogs.add(row["dialog"])
                written.turns[row["split"]] += sum(turn["role"] == "user" for turn in row["turns"])
        write_text(folder / DIALOGS_FILE, "".join(lines))
        return written
    units = UnitCorpus(corpus)
    with UnitCorpusWriter(folder / UNITS_FILE, units.source) as writer:
        for turn in units.utterances():
            if turn.role == "user" and turn.dialog in dialogs and (speakers is None or turn.speaker in speakers):
                writer.write(turn)
                written.dialogs.add(turn.dialog)
                written.turns[turn.split] += 1
    return written


def _fine(fine: Mapping[str, str], name: str) -> dict[str, str]:
    return {"fine": fine[name]} if name in fine else {}
