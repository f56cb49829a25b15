"""The model as a judge of its own replies (SELF-JUDGE, arXiv 2402.11253).

It is asked in a layout of its own (`usdm.tokens.layout.judge`) which of two replies is the better one, and answers with
one id. Each pair is shown in both orders, so that a liking for a place cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import ClassVar

import torch

from usdm.chain.candidates import Candidate
from usdm.chain.choosing import ChoosingStage
from usdm.chain.stages import LanguageModelChain, Question
from usdm.lm import LanguageModel, next_log_probabilities
from usdm.tokens import JUDGE_LAYOUTS, DialogTemplate, TurnContent
from usdm.types import InputError

# A model that was taught to judge says nothing else at this place. One that was not says anything.
LEAST_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two replies to one question; `question.text` is what was heard or typed."""

    question: Question
    a: str
    b: str


@dataclass(frozen=True)
class Verdict:
    """Probabilities of the verdicts "a" and "b", for the same two replies in both orders."""

    ab: tuple[float, float]  # the first reply was shown as a
    ba: tuple[float, float]  # the second one was

    @property
    def scores(self) -> tuple[float, float]:
        """Of the first and of the second reply: the mean of both orders."""
        return (self.ab[0] + self.ba[1]) / 2, (self.ab[1] + self.ba[0]) / 2

    @property
    def is_consistent(self) -> bool:
        """Whether both orders prefer the same reply."""
        return (self.ab[0] > self.ab[1]) == (self.ba[1] > self.ba[0])


class PairJudge:
    """Judges with one model, which stays as it is.

    Raises InputError where the tokenizer cannot tell the verdicts apart, or the model was not taught to judge.
    """

    def __init__(self, model: LanguageModel, template: DialogTemplate) -> None:
        self.model, self.template = model, template
        self.ids = {layout: template.verdict_ids(layout) for layout in JUDGE_LAYOUTS}
        self._check()

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Raises InputError for a question that lacks what the layout has, or of a kind that was not taught."""
        prompts = [self._prompt(each, swapped) for each in comparisons for swapped in (False, True)]
        layouts = [_layout(each.question) for each in comparisons for _ in range(2)]
        found = self._ask(layouts, prompts)
        for layout, (a, b) in zip(layouts, found, strict=True):
            if a + b < LEAST_SHARE:
                raise InputError(_untaught(layout, a + b))
        return [Verdict(ab, ba) for ab, ba in zip(found[::2], found[1::2], strict=True)]

    def _prompt(self, each: Comparison, swapped: bool) -> list[int]:
        a, b = (each.b, each.a) if swapped else (each.a, each.b)
        content = TurnContent(each.question.units, each.question.text, reply_a=a, reply_b=b)
        return self.template.prompt("judge", content, each.question.history, _layout(each.question))

    def _ask(self, layouts: Sequence[str], prompts: Sequence[list[int]]) -> list[tuple[float, float]]:
        if not prompts:
            return []
        wanted = sorted({id_ for layout in layouts for id_ in self.ids[layout]})
        likely = next_log_probabilities(self.model, prompts, wanted).exp().tolist()
        places = [[wanted.index(id_) for id_ in self.ids[layout]] for layout in layouts]
        return [(row[a], row[b]) for row, (a, b) in zip(likely, places, strict=True)]

    def _check(self) -> None:
        """A question of each kind: whoever was taught one of them is a judge."""
        heard = Question(units=torch.zeros(8, dtype=torch.int64), text="hello")
        shares = {}
        for question in (heard, Question(text="hello")):
            layout = _layout(question)
            [(a, b)] = self._ask([layout], [self._prompt(Comparison(question, "hello", "no"), False)])
            shares[layout] = a + b
        if max(shares.values()) < LEAST_SHARE:
            raise InputError(_untaught(*max(shares.items(), key=lambda item: item[1])))


@dataclass(frozen=True)
class Tournament:
    """The reply that wins a knock-out of random pairs, judged by the model that wrote them: N - 1 comparisons of N.

    Replies of the same words take part once. The odd one of a round goes on as it is, and of two that are equally good
    the first.
    """

    chain: LanguageModelChain
    seed: int = 0  # of the pairs
    stage: ClassVar[ChoosingStage] = "respond"

    def __post_init__(self) -> None:
        _ = self.judge  # which complains about a model that is none

    @cached_property
    def judge(self) -> PairJudge:
        return PairJudge(self.chain.model, self.chain.template)

    def best(self, question: Question, answers: Sequence[Candidate]) -> int:
        texts = [each.answer.agent_text or "" for each in answers]
        return knock_out(self.judge, question, texts, self.seed)


def knock_out(judge: PairJudge, question: Question, replies: Sequence[str], seed: int) -> int:
    """Index of the reply that wins. `judge` may be anything that gives verdicts."""
    first_of: dict[str, int] = {}
    for index, reply in enumerate(replies):
        first_of.setdefault(reply, index)
    going_on = list(first_of.values())
    random = Random(seed)
    while len(going_on) > 1:
        random.shuffle(going_on)
        pairs = [(min(pair), max(pair)) for pair in zip(going_on[::2], going_on[1::2], strict=False)]
        odd = going_on[len(going_on) - 1 :] if len(going_on) % 2 else []
        verdicts = judge([Comparison(question, replies[i], replies[j]) for i, j in pairs])
        winners = [j if each.scores[1] > each.scores[0] else i for (i, j), each in zip(pairs, verdicts, strict=True)]
        going_on = [*winners, *odd]
    return going_on[0]


def _layout(question: Question) -> str:
    return "judge" if question.units is not None else "judge_typed"


def _untaught(layout: str, share: float) -> str:
    return (
        f"this model was not taught to judge: in layout {layout} {share:.3f} of its probability falls on a verdict; "
        f"fine-tune it with layouts that have {layout}, and preferences"
    )
