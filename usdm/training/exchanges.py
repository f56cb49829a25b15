"""Questions of a corpus with the replies that they had: what is asked again, of other models or of one in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from usdm.chain.stages import Question
from usdm.data.dialogs import read_dialogs
from usdm.data.unit_corpus import UnitCorpus
from usdm.interleave import keyed_generator
from usdm.types import InputError, Turn


@dataclass(frozen=True, eq=False)
class Exchange:
    """A question, and the reply that the corpus has."""

    id: str  # of the question
    question: Question
    reply: str


def read_exchanges(
    corpus: UnitCorpus,
    split: str,
    *,
    stage: str = "respond",
    typed: bool = False,
    history_turns: int = 0,
    limit: int | None = None,
    seed: int = 0,
) -> list[Exchange]:
    """The user's turns of a split that an agent answers, in an order that the seed fixes, `limit` of them at most.

    Args:
        stage: "respond" leaves the reply open; "speak" settles its words.
        typed: questions have no units.
        history_turns: earlier turns before a question, at most.

    Raises:
        InputError: there is none.
    """
    dialogs, _ = read_dialogs(corpus, split)
    found = []
    for dialog in dialogs:
        for place, (user, agent) in enumerate(zip(dialog, dialog[1:], strict=False)):
            if (user.role, agent.role) != ("user", "agent"):
                continue
            earlier = dialog[max(0, place - history_turns) : place]
            question = Question(
                units=None if typed else torch.from_numpy(user.units.astype(np.int64)),
                text=user.text,
                history=tuple(Turn("agent" if turn.role == "agent" else "user", turn.text) for turn in earlier),
                reply=agent.text if stage == "speak" else None,
            )
            found.append(Exchange(user.id, question, agent.text))
    if not found:
        raise InputError(f"{corpus.files[0]}: no agent answers a user in split {split!r}; give a corpus of dialogs")
    order = keyed_generator(seed, 0, f"questions of {split}").permutation(len(found))[:limit]
    return [found[place] for place in order.tolist()]
