"""The answer that a reward model likes best: best-of-N, as reward-guided self-play draws its demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

from usdm.chain.candidates import Candidate
from usdm.chain.choosing import ChoosingStage
from usdm.chain.stages import LanguageModelChain, Question
from usdm.lm.reward_model import RewardModel
from usdm.tokens import TurnContent
from usdm.types import InputError


@dataclass(frozen=True)
class BestReward:
    """By a model of `usdm train_reward`; the first of equal ones. Answers part at the stage that it was trained on.

    Raises InputError if it has another tokenizer than the chain's model.
    """

    chain: LanguageModelChain
    folder: str | Path

    def __post_init__(self) -> None:
        self._reward.check(self.chain.template.vocabulary)

    @property
    def stage(self) -> ChoosingStage:
        return cast(ChoosingStage, self._reward.settings.stage)

    @cached_property
    def _reward(self) -> RewardModel:
        return RewardModel.from_pretrained(self.folder, self.chain.model.device)

    def rewards(self, question: Question, answers: Sequence[Candidate]) -> list[float]:
        """Of each answer. Raises InputError if the reward model reads what the question lacks."""
        before = TurnContent(question.units, question.text, answers[0].answer.agent_text)
        try:
            sequences = [self._reward.ids_after(before, question.history, answer.ids) for answer in answers]
        except InputError as error:
            raise InputError(
                f"choose.folder={self.folder}: it reads questions in another layout than this one has ({error}); take "
                "one that usdm train_reward has made with layout=typed"
            ) from error
        return self._reward(sequences)

    def best(self, question: Question, answers: Sequence[Candidate]) -> int:
        rewards = self.rewards(question, answers)
        return rewards.index(max(rewards))
