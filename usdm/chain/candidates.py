"""Several answers to one question, sampled: what comes before them is written once, and they part at one stage.

Everything is in ids, never through texts: an answer goes on from the very ids that the model wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from usdm.chain.stages import Answer, LanguageModelChain, Question
from usdm.lm import ContinuousBatch, Generated, GenerateRequest, StageProgram, check_sampling
from usdm.lm import log_probabilities as sequence_log_probabilities
from usdm.types import LARGEST_SEED, InputError, Sampling

# How a stage is sampled that would write the same every time (SELF-JUDGE, arXiv 2402.11253).
TEMPERATURE, TOP_P = 1.0, 0.9


@dataclass(frozen=True, eq=False)
class Asked:
    """A question, and how its stages are sampled."""

    question: Question
    sampling: Mapping[str, Sampling]  # by stage; greedy where there is none


@dataclass(frozen=True, eq=False)
class Candidate:
    """One of several answers to a question, as far as the stage at which they part."""

    answer: Answer  # nothing after that stage
    stage: str  # "respond" or "speak"
    prefix: tuple[int, ...]  # all ids before what the stage wrote: the same for all candidates of a question
    ids: tuple[int, ...]  # what the stage wrote, the id that it stopped at included, unless it met its limit
    allowed: Tensor  # (V,) bool: ids that the stage may write
    written: tuple[Generated, ...]  # by this stage and those before it: what the chain goes on from


def draw_candidates(
    chain: LanguageModelChain, asked: Sequence[Asked], stage: str, count: int, capacity: int = 32
) -> list[list[Candidate] | InputError]:
    """`count` sampled answers to each question, or why there are none.

    The stages before `stage` are written once, as the sampling says. The stage itself is sampled with seeds that count
    up, so that the first candidates of many are those of few; where it would be greedy or a beam search, at temperature
    1 and top-p 0.9. The stages after it are left out.

    Args:
        stage: "respond" for replies of different words, "speak" for one reply said in different ways.
        capacity: sequences that the language model writes at once.
    """
    speak = stage == "speak"

    def program(each: Asked) -> StageProgram[Answer]:
        return chain.program(each.question, each.sampling, speak)

    before = _outcomes(chain, ((i, _before(program(each), stage)) for i, each in enumerate(asked)), capacity)
    failed = {i: outcome for i, outcome in before.items() if isinstance(outcome, InputError)}
    drawing = (
        ((i, number), _drawn(program(each), before[i], sampled(each.sampling, stage, number)))
        for i, each in enumerate(asked)
        if i not in failed
        for number in range(count)
    )
    drawn = _outcomes(chain, drawing, capacity)
    return [failed[i] if i in failed else _whole([drawn[i, k] for k in range(count)]) for i in range(len(asked))]


def complete(
    chain: LanguageModelChain, asked: Sequence[Asked], chosen: Sequence[Candidate], capacity: int = 32
) -> list[Answer | InputError]:
    """Each question's answer with the stages that come after its candidate's."""
    programs = (
        (i, _rest(chain.program(each.question, each.sampling), candidate.written))
        for i, (each, candidate) in enumerate(zip(asked, chosen, strict=True))
    )
    outcomes = _outcomes(chain, programs, capacity)
    return [outcomes[i] for i in range(len(asked))]


def log_probabilities(chain: LanguageModelChain, candidates: Sequence[Candidate]) -> list[Tensor]:
    """For each candidate of one question, (L,) float32 of its `ids`, shared out among those that its stage may write.

    They are the model's own, at temperature 1, however the candidates were sampled.
    """
    sequences = [[*each.prefix, *each.ids] for each in candidates]
    first = candidates[0]
    return sequence_log_probabilities(chain.model, sequences, first.allowed, len(first.prefix))


def sampled(sampling: Mapping[str, Sampling], stage: str, number: int) -> Sampling:
    """How a stage is sampled for the candidate of that number."""
    own = sampling.get(stage, Sampling())
    if own.temperature == 0.0:
        own = replace(own, temperature=TEMPERATURE, top_p=TOP_P, num_beams=1)
    check_sampling(own)
    return replace(own, seed=(own.seed + number) % (LARGEST_SEED + 1))


def _outcomes(
    chain: LanguageModelChain, programs: Iterable[tuple[Any, StageProgram[Any]]], capacity: int
) -> dict[Any, Any]:
    """Of programs, by key; what is no InputError is raised."""
    outcomes = dict(ContinuousBatch(chain.model, capacity).run(programs))
    for outcome in outcomes.values():
        if isinstance(outcome, Exception) and not isinstance(outcome, InputError):
            raise outcome
    return outcomes


def _whole(outcomes: Sequence[Any]) -> list[Candidate] | InputError:
    """All candidates, or the first error."""
    return next((each for each in outcomes if isinstance(each, InputError)), list(outcomes))


def _before(program: StageProgram[Answer], stage: str) -> StageProgram[tuple[Generated, ...]]:
    """What the stages before `stage` write."""
    written: list[Generated] = []
    try:
        request = next(program)
        while request.stage != stage:
            generated = yield request
            written.append(generated)
            request = program.send(generated)
    except StopIteration:
        raise InputError(
            f"nothing is left to choose from: this question's stage {stage} is settled, or its chain has none; choose "
            "at another stage, or leave the reply open"
        ) from None
    finally:
        program.close()
    return tuple(written)


def _drawn(program: StageProgram[Answer], before: Sequence[Generated], sampling: Sampling) -> StageProgram[Candidate]:
    """One more stage of a program whose last it is."""
    request = replace(_gone_on(program, before), sampling=sampling)
    generated = yield request
    stop = tuple(request.stop_ids) if generated.stopped else ()
    return Candidate(
        _result(program, generated),
        request.stage,
        tuple(request.ids),
        (*generated.ids, *stop),
        request.allowed,
        (*before, generated),
    )


def _rest(program: StageProgram[Answer], written: Sequence[Generated]) -> StageProgram[Answer]:
    """The stages of a program that are not written yet: one or more."""
    request = _gone_on(program, written)
    while True:
        generated = yield request
        try:
            request = program.send(generated)
        except StopIteration as end:
            answer: Answer = end.value
            return answer


def _gone_on(program: StageProgram[Answer], written: Sequence[Generated]) -> GenerateRequest:
    """What a program asks for after its first stages, which are written already, with all ids from the beginning."""
    request = next(program)
    ids = list(request.ids)
    for generated in written:
        request = program.send(generated)
        ids += [*generated.ids, *request.ids]
    return replace(request, ids=ids)


def _result(program: StageProgram[Answer], generated: Generated) -> Answer:
    try:
        program.send(generated)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise AssertionError("the program has a stage more")
