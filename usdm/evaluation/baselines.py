"""Replies that have nothing to do with what was said: what a model's replies must be better than."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from usdm.metrics.text import most_frequent
from usdm.types import InputError

MOST_FREQUENT = "most frequent reply"
RANDOM = "random reply"
SAME_SERVICE = "random reply of the same service"


@dataclass(frozen=True)
class ServiceReplies:
    """What dialogs are about, and what agents say in training dialogs about it."""

    file: Path
    replies: Sequence[str]  # of all training dialogs
    by_service: Mapping[str, Sequence[str]]  # the same; a dialog of two services is in both
    services: Mapping[str, Sequence[str]]  # of every dialog

    def check(self, dialogs: Sequence[str]) -> None:
        """Raises InputError if the file does not have all of these dialogs."""
        for dialog in dialogs:
            if dialog not in self.services:
                raise InputError(
                    f"dialogs_file={self.file}: it has no dialog {dialog}, which the held-out set has; give the "
                    "dialogs.jsonl that the set was made from"
                )

    def about(self, dialog: str) -> Sequence[str]:
        """Replies of training dialogs that share a service with this one; empty where none does."""
        return [reply for service in self.services[dialog] for reply in self.by_service.get(service, ())]


def read_dialogs_file(path: str | Path) -> ServiceReplies:
    """`dialogs.jsonl` as `usdm prepare_dialogs` writes it: `dialog`, `split`, `services` and `turns`.

    Schema-Guided Dialogue numbers what offers the same service ("Hotels_1", "Hotels_4") and has other numbers in its
    test dialogs; here they are one.

    Raises:
        InputError: the file is missing, has a line that is no dialog, or no training dialog.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"dialogs_file={path}: no such file; give the dialogs.jsonl of `usdm prepare_dialogs`")
    replies: list[str] = []
    by_service: dict[str, list[str]] = {}
    services: dict[str, Sequence[str]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            about = list(dict.fromkeys(service.rstrip("0123456789").rstrip("_") for service in row["services"]))
            said = [turn["text"] for turn in row["turns"] if turn["role"] == "agent" and row["split"] == "train"]
            services[row["dialog"]] = about
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}, line {number}: not a dialog ({error!r}); it needs dialog, split, services and turns"
            ) from error
        replies += said
        for service in about:
            by_service.setdefault(service, []).extend(said)
    if not replies:
        raise InputError(f"dialogs_file={path}: no agent turn of split train; give a file with training dialogs")
    return ServiceReplies(path, replies, by_service, services)


def baseline_replies(
    references: Sequence[str],
    dialogs: Sequence[str],
    training_replies: Sequence[str],
    service_replies: ServiceReplies | None,
    seed: int,
) -> dict[str, list[str]]:
    """A reply to every item by each baseline: always the same one, any one, and any one of the same service.

    `references` and `dialogs` are the items'. Without training replies they come from the references themselves,
    never the item's own. Where no training dialog has an item's service, its reply is any one.
    """
    training_replies = _known(training_replies, service_replies)
    if len(references) < 2 and not training_replies:
        return {}
    random = np.random.default_rng(seed)
    pools = [training_replies or [*references[:place], *references[place + 1 :]] for place in range(len(references))]
    found = {
        MOST_FREQUENT: [most_frequent(training_replies or references)] * len(references),
        RANDOM: [_draw(pool, random) for pool in pools],
    }
    if service_replies is not None:
        own = [service_replies.about(dialog) or pool for dialog, pool in zip(dialogs, pools, strict=True)]
        found[SAME_SERVICE] = [_draw(pool, random) for pool in own]
    return found


def baseline_facts(
    dialogs: Sequence[str], training_replies: Sequence[str], service_replies: ServiceReplies | None
) -> dict[str, str]:
    """Where the baselines' replies come from, to stand beside their figures."""
    source = "training replies" if _known(training_replies, service_replies) else "the held-out set"
    if service_replies is not None:
        strange = {dialog for dialog in dialogs if not service_replies.about(dialog)}
        source += f" (for {len(strange)} dialogs, whose service has none, any of them)" if strange else ""
    return {"baselines_from": source}


def _known(training_replies: Sequence[str], service_replies: ServiceReplies | None) -> Sequence[str]:
    return training_replies or (service_replies.replies if service_replies is not None else ())


def _draw(pool: Sequence[str], random: np.random.Generator) -> str:
    return pool[int(random.integers(len(pool)))]
