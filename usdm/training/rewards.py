"""What reinforcement rewards: a reward model's liking, METEOR against the true reply, or being heard right.

A reward of one's own is a dataclass with `bind`, in any module that Python can import. Its fields are its settings, and
belong to what a run is told apart by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel

from usdm.chain.candidates import Candidate
from usdm.chain.stages import LanguageModelChain, Question
from usdm.lm import ContinuousBatch
from usdm.lm.reward_model import RewardModel
from usdm.metrics.meteor import meteor_exact_stem
from usdm.metrics.text import word_errors
from usdm.tokens import DialogTemplate, TurnContent
from usdm.training.posed import Posed
from usdm.types import InputError

CAPACITY = 32  # replies that the own ear hears at once


Scores = Callable[[Sequence[Posed], Sequence[Candidate]], list[float]]


class Reward(Protocol):
    """Says how good sampled replies are."""

    def bind(self, start: PreTrainedModel, template: DialogTemplate, stage: str) -> Scores:
        """For a run that begins with the model `start`, which stays as it is. Raises InputError if it has none for
        replies of that stage, or for that model."""


@dataclass(frozen=True)
class ModelReward:
    """What a reward model says (`usdm train_reward`).

    Raises InputError for a clip that is not positive.
    """

    folder: str | Path
    normalise: bool = True  # in deviations from the mean, both of the pairs that it was trained on
    clip: float | None = 3.0  # no further from the mean than this; None: however far

    def __post_init__(self) -> None:
        if self.clip is not None and (self.clip <= 0 or not self.normalise):
            raise InputError(f"clip={self.clip}: give deviations above 0 with normalise=true, or null")

    def bind(self, start: PreTrainedModel, template: DialogTemplate, stage: str) -> Scores:
        """Raises InputError if the reward model judges another stage, or has another tokenizer."""
        model = RewardModel.from_pretrained(self.folder, start.device)
        model.check(template.vocabulary)
        if model.settings.stage != stage:
            raise InputError(
                f"{self.folder}: judges replies of the stage {model.settings.stage}, and stage={stage} is trained: "
                f"train one with stage={stage}"
            )

        def scores(posed: Sequence[Posed], candidates: Sequence[Candidate]) -> list[float]:
            sequences = [
                model.ids_after(content_of(each.question), each.question.history, candidate.ids)
                for each, candidate in zip(posed, candidates, strict=True)
            ]
            rewards = model(sequences)
            return model.normalised(rewards, self.clip) if self.normalise else rewards

        return scores


@dataclass(frozen=True)
class MeteorReward:
    """METEOR (exact words and stems) of the reply's words against the reply that the corpus has."""

    def bind(self, start: PreTrainedModel, template: DialogTemplate, stage: str) -> Scores:
        """Raises InputError for units, which have no words."""
        if stage != "respond":
            raise InputError(f"reward=meteor compares words, and stage={stage} writes none: take reward=heard")

        def scores(posed: Sequence[Posed], candidates: Sequence[Candidate]) -> list[float]:
            return [
                meteor_exact_stem(each.reply, candidate.answer.agent_text or "")
                for each, candidate in zip(posed, candidates, strict=True)
            ]

        return scores


@dataclass(frozen=True)
class HeardReward:
    """Minus the word error rate at which the start model itself hears the reply, 1 at most: its own ear.

    It is no judge of how well a reply is spoken: a recogniser that took no part has to say that.
    """

    def bind(self, start: PreTrainedModel, template: DialogTemplate, stage: str) -> Scores:
        """Raises InputError for words, which nobody hears, and for a model that does not transcribe."""
        if stage != "speak":
            raise InputError(f"reward=heard listens to speech, and stage={stage} writes words: take reward=meteor")
        ear = LanguageModelChain(start, template, "multi_step")

        def scores(posed: Sequence[Posed], candidates: Sequence[Candidate]) -> list[float]:
            heard = own_ear(ear, [candidate.answer.agent_units for candidate in candidates])
            return [
                -error_rate(candidate.answer.agent_text or "", text)
                for candidate, text in zip(candidates, heard, strict=True)
            ]

        return scores


def own_ear(chain: LanguageModelChain, spoken: Sequence[torch.Tensor | None]) -> list[str]:
    """What a model hears in units, greedily; "" where there are none. Raises InputError for units that are too many."""
    texts = [""] * len(spoken)
    programs = (
        (place, chain.transcription(Question(units=units), {}))
        for place, units in enumerate(spoken)
        if units is not None and len(units)
    )
    for place, text in ContinuousBatch(chain.model, CAPACITY).run(programs):
        if isinstance(text, Exception):
            raise text
        texts[place] = text
    return texts


def error_rate(reference: str, heard: str) -> float:
    """Of words, 1 at most; 1 of a reference without words."""
    errors = word_errors(reference, heard)
    return min(errors.errors / errors.words, 1.0) if errors.words else 1.0


def content_of(question: Question) -> TurnContent:
    """What a template wants of it."""
    return TurnContent(user_units=question.units, user_text=question.text, agent_text=question.reply)
