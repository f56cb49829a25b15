"""The model hears its own speech: of several ways to say one reply, the one that it understands best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from usdm.chain.candidates import Candidate
from usdm.chain.choosing import ChoosingStage
from usdm.chain.stages import LanguageModelChain, Question
from usdm.lm import ContinuousBatch
from usdm.types import InputError, Sampling


@dataclass(frozen=True)
class BestHeard:
    """Transcribes the units of each candidate as if a user had said them; fewest word errors against the reply's text
    win, the first of equal ones.

    Raises InputError for a chain that does not transcribe, or has no text of its reply.
    """

    chain: LanguageModelChain
    max_new_tokens: int = 64  # of a transcript
    stage: ClassVar[ChoosingStage] = "speak"

    def __post_init__(self) -> None:
        if not {"transcribe", "respond"} <= set(self.chain.template.layout(self.chain.name).stages):
            raise InputError(f"choose=heard with chain={self.chain.name}: it wants one that transcribes and responds")

    def best(self, question: Question, answers: Sequence[Candidate]) -> int:
        errors = heard_errors(self.chain, answers, self.max_new_tokens)
        return errors.index(min(errors))


def heard_errors(chain: LanguageModelChain, answers: Sequence[Candidate], max_new_tokens: int) -> list[int]:
    """Words of each reply that the model itself hears otherwise; all of them where nothing was said."""
    from usdm.metrics.text import word_errors  # with packages that only evaluation wants otherwise

    sampling = {"transcribe": Sampling(max_new_tokens=max_new_tokens)}
    said = {i: units for i, each in enumerate(answers) if (units := each.answer.agent_units) is not None and len(units)}
    programs = ((i, chain.transcription(Question(units=units), sampling)) for i, units in said.items())
    heard = dict(ContinuousBatch(chain.model, max(1, len(said))).run(programs))
    if errors := [outcome for outcome in heard.values() if isinstance(outcome, Exception)]:
        raise errors[0]
    return [word_errors(each.answer.agent_text or "", str(heard.get(i, ""))).errors for i, each in enumerate(answers)]
