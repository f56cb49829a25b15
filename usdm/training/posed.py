"""Questions of a corpus, posed again: to other models, or to one in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from usdm.chain.stages import Question
from usdm.data.dialog_pairs import Exchange, read_exchanges
from usdm.data.unit_corpus import UnitCorpus
from usdm.interleave import keyed_generator
from usdm.types import InputError, Turn


@dataclass(frozen=True, eq=False)
class Posed:
    """A question with its transcript, and the words of the reply that the corpus has."""

    id: str
    question: Question
    reply: str


def draw_posed(
    corpus: UnitCorpus,
    split: str,
    stage: str,
    *,
    typed: bool = False,
    history_turns: int = 0,
    limit: int | None = None,
    seed: int = 0,
) -> list[Posed]:
    """The turns of a split that an agent answers, in an order that the seed fixes, `limit` of them at most.

    Raises InputError if there is none.
    """
    found = read_exchanges(corpus, split, history_turns=history_turns)
    if not found:
        raise InputError(f"{corpus.files[0]}: no agent answers anybody in split {split!r}; give a corpus of dialogs")
    order = keyed_generator(seed, 0, f"questions of {split}").permutation(len(found))[:limit]
    return [pose(found[place], stage, typed, history_turns) for place in order.tolist()]


def pose(exchange: Exchange, stage: str, typed: bool, history_turns: int) -> Posed:
    """An exchange's question again. At stage "speak" the reply's words are settled.

    Args:
        typed: the question has no units.
        history_turns: earlier turns before it, at most.
    """
    prompt = exchange.prompt
    history: Sequence[tuple[str, str]] = prompt["history"]
    kept = history[max(0, len(history) - history_turns) :]
    question = Question(
        units=None if typed else torch.tensor(prompt["user_units"], dtype=torch.int64),
        text=prompt["user_text"],
        history=tuple(Turn("agent" if role == "agent" else "user", text) for role, text in kept),
        reply=exchange.agent_text if stage == "speak" else None,
    )
    return Posed(exchange.id, question, exchange.agent_text)
