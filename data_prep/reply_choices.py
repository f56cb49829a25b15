"""Which of four replies follows? Questions with options in KMMLU's format, made of any corpus of spoken dialogs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from usdm.evaluation.baselines import read_dialogs_file
from usdm.evaluation.held_out import HeldOutItem, read_held_out
from usdm.knowledge.items import LETTERS
from usdm.runs import claim, publishing
from usdm.tokens.template import normalise_text
from usdm.types import InputError

ANY = "dialogs"  # the subject where services are not known
RESULTS = "questions"


@dataclass(frozen=True)
class ReplyChoice:
    """A user's turn, the reply that followed, and three that did not."""

    item: HeldOutItem
    others: tuple[str, ...]


def make_reply_choices(
    corpora: Sequence[str],
    output_dir: str,
    *,
    dialogs_file: str | None,
    split: str | None,
    count: int,
    seed: int,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write `questions/SERVICE-test.jsonl`: the user's words and recording, the true reply and three of other dialogs.

    Args:
        corpora: speech corpora of dialogs. The questions are the first user turns, that nothing comes before.
        dialogs_file: `dialogs.jsonl` of `usdm prepare_dialogs`, which says what a dialog is about; a question's wrong
            replies are then of the same service, and services are subjects. None: of any dialog, and one subject.
        split: of the corpora; None: all.
        count: questions of each service, at most.
        overwrite: delete questions of other settings.

    Returns:
        The number of questions of each subject.

    Raises:
        InputError: no service has a question with three other replies.
    """
    items = [item for corpus in corpora for item in read_held_out(corpus, split) if not item.history]
    about = _services(dialogs_file)
    groups: defaultdict[str, list[HeldOutItem]] = defaultdict(list)
    for item in items:
        groups[about.get(item.dialog, ANY) if about else ANY].append(item)
    random = np.random.default_rng(seed)
    chosen = {service: _choices(own, count, random) for service, own in sorted(groups.items())}
    chosen = {service: choices for service, choices in chosen.items() if choices}
    if not chosen:
        raise InputError(f"{', '.join(corpora)}: no service has four different replies; give a larger corpus")
    settings = {"split": split, "count": count, "seed": seed}
    inputs = {"corpora": list(corpora)} | ({} if dialogs_file is None else {"dialogs_file": [dialogs_file]})
    with claim(output_dir, settings, inputs, results=[RESULTS], overwrite=overwrite) as claimed:
        with publishing(Path(output_dir) / RESULTS, folder=True) as folder:
            for service, choices in chosen.items():
                rows = [json.dumps(_row(choice, random), ensure_ascii=False) + "\n" for choice in choices]
                (folder / f"{service}-test.jsonl").write_text("".join(rows), encoding="utf-8")
        counts = {service: len(choices) for service, choices in chosen.items()}
        claimed.finish(counts)
    return counts


def _services(dialogs_file: str | None) -> Mapping[str, str]:
    """The first one of each dialog."""
    if dialogs_file is None:
        return {}
    services = read_dialogs_file(dialogs_file).services
    return {dialog: (list(about) or [ANY])[0] for dialog, about in services.items()}


def _choices(items: Sequence[HeldOutItem], count: int, random: np.random.Generator) -> list[ReplyChoice]:
    replies = list(dict.fromkeys(normalise_text(item.references[1]) for item in items))
    found: list[ReplyChoice] = []
    for place in random.permutation(len(items)):
        item = items[place]
        true = normalise_text(item.references[1])
        others = [reply for reply in replies if reply != true]
        if len(others) >= len(LETTERS) - 1 and len(found) < count:
            drawn = random.permutation(len(others))[: len(LETTERS) - 1]
            found.append(ReplyChoice(item, tuple(others[each] for each in drawn)))
    return found


def _row(choice: ReplyChoice, random: np.random.Generator) -> dict[str, object]:
    item, answer = choice.item, int(random.integers(len(LETTERS)))
    options = [*choice.others[:answer], normalise_text(item.references[1]), *choice.others[answer:]]
    row: dict[str, object] = {"question": item.references[0], "answer": answer + 1}
    row |= dict(zip(LETTERS, options, strict=True))
    # Several exchanges of one dialog are numbered behind its name.
    return {**row, "audio": str(item.user.audio.resolve()), "cluster": item.dialog.rpartition("-")[0] or item.dialog}
