"""Pairs of replies from dialogs alone: what the agent said is preferred to what it said in another dialog."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usdm.data.unit_corpus import UnitCorpus
from usdm.interleave import keyed_generator
from usdm.tokens.template import normalise_text
from usdm.types import InputError, Role

SAME_SERVICE, OTHER_SERVICE = "same service", "other service"  # what a rejected reply is from


@dataclass(frozen=True)
class Exchange:
    """An agent's turn, and what it answers."""

    id: str  # of the agent's turn
    dialog: str
    prompt: Mapping[str, Any]  # as `usdm.data.preferences` has it
    agent_text: str
    agent_units: Sequence[int]


def read_exchanges(
    corpus: UnitCorpus, split: str, agent_roles: Sequence[Role] = ("agent",), history_turns: int = 0
) -> list[Exchange]:
    """All of a split in the order of the dialogs' names; turns without text or units take no part."""
    columns = ["dialog", "turn", "id", "role", "text", "units"]
    rows = corpus.read(corpus.groups, columns, split).sort_by([("dialog", "ascending"), ("turn", "ascending")])
    turns = rows.to_pylist()
    found = []
    for place in range(1, len(turns)):
        user, agent = turns[place - 1], turns[place]
        if agent["role"] not in agent_roles or user["role"] == agent["role"] or user["dialog"] != agent["dialog"]:
            continue
        if not all((user["text"], user["units"], agent["text"], agent["units"])):
            continue
        earlier = [turn for turn in turns[max(0, place - 1 - history_turns) : place - 1] if turn["text"]]
        history = [
            ["agent" if turn["role"] == agent["role"] else "user", turn["text"]]
            for turn in earlier
            if turn["dialog"] == agent["dialog"]
        ]
        prompt = {"user_units": user["units"], "user_text": user["text"], "history": history}
        found.append(Exchange(agent["id"], agent["dialog"], prompt, agent["text"], agent["units"]))
    return found


@dataclass(frozen=True)
class DialogPairs:
    """The true reply before the reply of another dialog of the same split.

    Raises InputError for a share outside [0, 1], a file that does not say what its dialogs are about, or a dialog that
    it does not have.
    """

    dialogs_file: str | Path  # dialogs.jsonl of `usdm prepare_dialogs`: dialog, services
    same_service_share: float = 0.5  # of the pairs; hard ones, the rest is about something else
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.same_service_share <= 1:
            raise InputError(f"same_service_share={self.same_service_share}: give a share, 0 to 1")

    def pairs(self, exchanges: Sequence[Exchange]) -> Iterator[dict[str, Any]]:
        """Lines of a file of pairs. An exchange for which there is no other reply of the drawn kind takes another."""
        services = _services(Path(self.dialogs_file))
        for each in exchanges:
            if each.dialog not in services:
                raise InputError(f"{self.dialogs_file}: it has no dialog {each.dialog}; give the one of this corpus")
        about = [services[each.dialog] for each in exchanges]
        said = [normalise_text(each.agent_text) for each in exchanges]
        for place, each in enumerate(exchanges):
            random = keyed_generator(self.seed, 0, f"rejected for {each.id}")
            wanted = [SAME_SERVICE, OTHER_SERVICE]
            if random.random() >= self.same_service_share:
                wanted.reverse()
            order = random.permutation(len(exchanges)).tolist()
            others = [i for i in order if exchanges[i].dialog != each.dialog]
            others = [i for i in others if said[i] != said[place]]
            for kind in wanted:
                fitting = (i for i in others if bool(about[i] & about[place]) == (kind == SAME_SERVICE))
                if (chosen := next(fitting, None)) is not None:
                    rejected = {"agent_text": exchanges[chosen].agent_text}
                    yield {
                        "prompt": dict(each.prompt),
                        "chosen": {"agent_text": each.agent_text},
                        "rejected": rejected,
                        "source": kind,
                    }
                    break


def _services(path: Path) -> dict[str, frozenset[str]]:
    """What each dialog is about; Schema-Guided Dialogue's numbers of one service ("Hotels_1", "Hotels_4") are one."""
    if not path.is_file():
        raise InputError(f"dialogs_file={path}: no such file; give the dialogs.jsonl of `usdm prepare_dialogs`")
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            found[row["dialog"]] = frozenset(name.rstrip("0123456789").rstrip("_") for name in row["services"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}, line {number}: not a dialog ({error!r}); it needs dialog and services"
            ) from error
    return found
