"""One answer out of several: who chooses, and a chain that samples answers and lets somebody choose.

A chooser of one's own is a dataclass whose first field is `chain`, in any module that Python can import, with `stage`
and `best`; its other fields are its settings, from a file of `conf/choose`. They and the contents of the files that
they name (fields with `Path` in their annotation) are what results are told apart by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

from usdm.chain.candidates import Asked, Candidate, complete, draw_candidates, log_probabilities
from usdm.chain.stages import Answer, LanguageModelChain, Question
from usdm.runs import Arguments, arguments_of, own_source
from usdm.types import InputError, Sampling

ChoosingStage = Literal["respond", "speak"]


class Chooser(Protocol):
    """Says which of several answers is the best. Making one raises InputError for a chain that it cannot serve."""

    @property
    def stage(self) -> ChoosingStage:
        """Where the answers part: replies of other words, or one reply said in other ways."""

    def best(self, question: Question, answers: Sequence[Candidate]) -> int:
        """Index of the best one. `question.text` holds what was heard, where the chain transcribes."""


MakeChooser = Callable[[LanguageModelChain], Chooser]


@dataclass(frozen=True)
class Likeliest:
    """The answer that the model finds the likeliest, by its mean log-probability a token; the first of equal ones.

    It knows nothing but what the model knows when it writes: the baseline of every other chooser.
    """

    chain: LanguageModelChain
    stage: ChoosingStage = "respond"

    def best(self, question: Question, answers: Sequence[Candidate]) -> int:
        means = [float(scored.mean()) for scored in log_probabilities(self.chain, answers)]
        return means.index(max(means))


def chain_of(
    chain: LanguageModelChain, candidates: int, choose: MakeChooser | None
) -> LanguageModelChain | ChoosingChain:
    """A model's chain: one answer, or the best of `candidates` sampled ones.

    Raises InputError for several candidates and nobody to choose, for a chain that refuses turns and somebody to
    choose, or as the chooser does.
    """
    if choose is not None and chain.rejection is not None:
        raise InputError("choose and reject: several answers to a turn that may be refused; take one of the two")
    if choose is not None and candidates < 2:
        raise InputError(f"candidates={candidates}: there is nothing to choose from; give candidates=2 or more")
    if choose is not None:
        return ChoosingChain(chain, choose, candidates)
    if candidates != 1:
        raise InputError(f"candidates={candidates}: say who chooses, choose=likelihood for example")
    return chain


@dataclass(frozen=True)
class ChoosingChain:
    """A chain of a model, whose answers are the best of `count` sampled ones.

    Raises InputError for a count below 1.
    """

    chain: LanguageModelChain
    make_chooser: MakeChooser
    count: int = 8
    chooser: Chooser = field(init=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"candidates={self.count}: give 1 answer or more to choose from")
        object.__setattr__(self, "chooser", self.make_chooser(self.chain))

    @property
    def name(self) -> str:
        """Of the chain that writes."""
        return self.chain.name

    @property
    def identity(self) -> Arguments:
        """What answers depend on, beside the model and its sampling."""
        chooser: Any = self.chooser
        given = {each.name: getattr(chooser, each.name) for each in fields(chooser) if each.name != "chain"}
        found = arguments_of(type(chooser), given)
        kind = f"{type(chooser).__module__}.{type(chooser).__qualname__}"
        inputs = {f"choose.{name}": place for name, place in found.inputs.items()}
        return Arguments(
            {"candidates": self.count, "choose": {"type": kind, **own_source(type(chooser)), **found.settings}}, inputs
        )

    def answer(self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True) -> Answer:
        """Raises InputError as `LanguageModelChain.answer` does, and where nothing is left to choose."""
        [answer] = self.answers([Asked(question, sampling)], self.count, speak)
        if isinstance(answer, InputError):
            raise answer
        return answer

    def answers(self, asked: Sequence[Asked], capacity: int, speak: bool = True) -> list[Answer | InputError]:
        """The same for many questions at once, each with its answer or what is wrong with it."""
        stage = self.chooser.stage
        if not speak and stage == "speak":
            raise InputError("choose: a reply that stays text is not said in several ways; choose among replies")
        clock = time.perf_counter()
        drawn = draw_candidates(self.chain, asked, stage, self.count, capacity)
        spent = {"candidates": time.perf_counter() - clock}
        clock = time.perf_counter()
        chosen = [self._choose(each.question, found) for each, found in zip(asked, drawn, strict=True)]
        spent["choose"] = time.perf_counter() - clock
        share = {step: seconds / max(1, len(asked)) for step, seconds in spent.items()}
        best = {i: each for i, each in enumerate(chosen) if isinstance(each, Candidate)}
        if speak and stage == "respond":
            rest = complete(self.chain, [asked[i] for i in best], list(best.values()), capacity)
        else:
            rest = [replace(each.answer, timings={}) for each in best.values()]
        answers: list[Any] = list(chosen)
        for i, answer in zip(best, rest, strict=True):
            answers[i] = answer
            if isinstance(answer, Answer):
                answers[i] = replace(answer, timings={**share, **answer.timings})
        return answers

    def _choose(self, question: Question, found: Sequence[Candidate] | InputError) -> Candidate | InputError:
        if isinstance(found, InputError):
            return found
        heard = replace(question, text=found[0].answer.user_text)
        try:
            return found[self.chooser.best(heard, found)]
        except InputError as error:
            return error
