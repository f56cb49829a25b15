"""Preferences without anybody who prefers: the same questions to models that are known to be better and worse.

ALMoST (arXiv 2305.13735): of two configurations of one family the one that is larger, or was trained for longer, or
sees more of what helps, gives the better reply more often than not. What is more often than not is filtered.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from usdm.chain.locations import find_parts
from usdm.chain.stages import Answer, LanguageModelChain
from usdm.data.dialog_pairs import Exchange
from usdm.data.unit_corpus import UnitSource
from usdm.lm import ContinuousBatch, load_for_generation
from usdm.lm.reward_model import RewardModel
from usdm.metrics.text import says
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings, TurnContent
from usdm.tokens.template import normalise_text
from usdm.training.posed import Posed, pose
from usdm.training.rewards import content_of, own_ear
from usdm.types import InputError, Sampling

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rung:
    """One configuration of the family: what it has less of than the rung above is what makes it worse."""

    llm: str | Path  # folder of its language model: smaller, or trained for less
    chain: str | None = None  # name of a layout; None: the model's own
    beams: int = 1
    temperature: float = 0.0  # 1: as it comes
    history_turns: int = 2  # earlier turns that it is told, at most
    quantization: str | None = None  # "int8", "int4": fewer bits


@dataclass(frozen=True)
class Filters:
    """Which pairs are left out; equal replies always are.

    Raises InputError for a length that cannot be.
    """

    cut_off: bool = True  # the better reply met its limit
    shortest: float | None = 0.5  # the better reply is shorter than the mean less so many deviations; None: may be
    refusal: str | None = None  # a phrase that the better reply must not have
    judge: str | Path | None = None  # folder of a reward model that must find the better reply better

    def __post_init__(self) -> None:
        if self.shortest is not None and self.shortest < 0:
            raise InputError(f"filters.shortest={self.shortest}: give deviations below the mean, 0 or more, or null")


@dataclass(frozen=True, eq=False)
class _Said:
    """A reply of one rung."""

    text: str
    units: list[int]
    cut_off: bool


@dataclass(frozen=True)
class Contrast:
    """Pairs of replies of different rungs to one question, the better rung's first.

    What the filters leave out is counted, and told in the log.

    Raises InputError for a ladder without two rungs, or for a rung that is no configuration.
    """

    ladder: Mapping[str, Any]  # rungs by name, the best first
    stage: str = "respond"  # what differs: the words of replies, or ("speak") the units of the corpus' own replies
    typed: bool = False  # questions are read as text, and not heard
    filters: Filters = field(default_factory=Filters)
    max_new_tokens: int = 64  # of a stage that writes text
    max_new_units: int = 512  # of a reply that is spoken
    capacity: int = 32  # sequences that a language model writes at once
    seed: int = 0
    best_first: tuple[str, ...] = field(init=False)  # the rungs' order, which a run is told apart by

    def __post_init__(self) -> None:
        object.__setattr__(self, "best_first", tuple(self.ladder))
        object.__setattr__(self, "ladder", {name: _rung(name, given) for name, given in self.ladder.items()})
        if len(self.ladder) < 2:
            raise InputError(
                f"ladder={sorted(self.ladder)}: name two rungs or more, the best first, such as "
                "+preference_source.ladder.good.llm=A +preference_source.ladder.bad.llm=B"
            )
        if len(set(self.ladder.values())) < len(self.ladder):
            raise InputError("ladder: two rungs are the same configuration: change one, or leave it out")
        if self.stage not in ("respond", "speak"):
            raise InputError(f"stage={self.stage!r}: there are respond and speak")

    def pairs(self, exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
        """Lines of a file of pairs (`usdm.data.preferences`); `source` says which two rungs.

        Raises InputError if a rung cannot be loaded, knows other units than another, or does not answer, or if no
        pair is left.
        """
        folders = {name: find_parts({"llm": rung.llm})["llm"] for name, rung in self.ladder.items()}
        _check_units(folders)
        judge = None if self.filters.judge is None else RewardModel.from_pretrained(self.filters.judge)
        if judge is not None and judge.settings.stage != self.stage:
            raise InputError(
                f"filters.judge={self.filters.judge}: judges the stage {judge.settings.stage}, not {self.stage}: take "
                "one of that stage"
            )
        most = max(rung.history_turns for rung in self.ladder.values())
        asked = [pose(each, self.stage, self.typed, most) for each in exchanges]
        ear = LanguageModelChain(*_loaded(next(iter(folders.values())), None), "multi_step")
        said = {name: list(self._answers(folders[name], rung, exchanges, ear)) for name, rung in self.ladder.items()}
        return self._filtered(asked, said, judge)

    def _answers(
        self, folder: Path, rung: Rung, exchanges: Sequence[Exchange], ear: LanguageModelChain
    ) -> Iterator[_Said]:
        """Of one rung to all questions. A rung that writes no words is heard."""
        model, template = _loaded(folder, rung.quantization)
        chain = LanguageModelChain(model, template, rung.chain)
        silent = "respond" not in template.layout(chain.name).stages
        if silent and self.typed:
            raise InputError(
                f"chain={chain.name} hears and says, and reads nothing: give typed=false, or another chain"
            )
        posed = [pose(each, self.stage, self.typed, rung.history_turns) for each in exchanges]
        programs = ((place, self._program(chain, rung, silent, place, each)) for place, each in enumerate(posed))
        answers = dict(ContinuousBatch(model, self.capacity).run(programs))
        for place, answer in answers.items():
            if isinstance(answer, Exception):
                raise InputError(f"{posed[place].id}, {folder}: {answer}") from answer
        whole: list[Answer] = [cast(Answer, answers[place]) for place in range(len(posed))]
        heard = own_ear(ear, [each.agent_units for each in whole]) if silent else [each.agent_text for each in whole]
        for answer, text in zip(whole, heard, strict=True):
            units = [] if answer.agent_units is None else answer.agent_units.tolist()
            yield _Said(text or "", units, ("speak" if silent else self.stage) in answer.truncated)

    def _program(self, chain: LanguageModelChain, rung: Rung, silent: bool, place: int, posed: Posed) -> Any:
        """One answer, as far as it is asked for."""
        written = Sampling(rung.temperature, max_new_tokens=self.max_new_tokens, num_beams=rung.beams)
        stages = {"transcribe": Sampling(max_new_tokens=self.max_new_tokens), "respond": written}
        if silent or self.stage == "speak":
            stages["speak"] = replace(written, max_new_tokens=self.max_new_units)
        settings = {name: replace(own, seed=self.seed * 1_000_003 + place) for name, own in stages.items()}
        question = posed.question
        if question.units is not None and (silent or self.stage == "respond"):
            question = replace(question, text=None, reply=None)  # a rung is to hear it by itself
        return chain.program(question, settings, silent or self.stage == "speak")

    def _filtered(
        self, asked: Sequence[Posed], said: Mapping[str, Sequence[_Said]], judge: RewardModel | None
    ) -> list[dict[str, Any]]:
        lengths = [self._length(each) for replies in said.values() for each in replies]
        short = 0.0
        if self.filters.shortest is not None:
            short = float(np.mean(lengths) - self.filters.shortest * np.std(lengths))
        left_out: Counter[str] = Counter()
        kept: list[tuple[str, Posed, _Said, _Said]] = []
        for place, posed in enumerate(asked):
            for (better, good), (worse, bad) in combinations(said.items(), 2):
                why = self._flaw(good[place], bad[place], short)
                if why is None:
                    kept.append((f"{better} > {worse}", posed, good[place], bad[place]))
                else:
                    left_out[why] += 1
        if judge is not None and kept:
            sides = [
                judge.ids(self._content(each, side), each.question.history) for _, each, *two in kept for side in two
            ]
            rewards = judge(sides)
            agreed = [good > bad for good, bad in zip(rewards[::2], rewards[1::2], strict=True)]
            left_out["judge"] += len(agreed) - sum(agreed)
            kept = [each for each, agrees in zip(kept, agreed, strict=True) if agrees]
        told = ", ".join(f"{name} {count}" for name, count in sorted(left_out.items())) or "none"
        rungs = ", ".join(f"{name}: {count}" for name, count in Counter(name for name, *_ in kept).items())
        logger.info("%d questions, %d pairs (%s); left out: %s", len(asked), len(kept), rungs, told)
        if not kept:
            raise InputError(f"no pair is left ({told}): give more questions, rungs further apart, or fewer filters")
        return [
            {"prompt": self._prompt(each), "chosen": self._side(good), "rejected": self._side(bad), "source": name}
            for name, each, good, bad in kept
        ]

    def _flaw(self, good: _Said, bad: _Said, short: float) -> str | None:
        """The first filter that leaves a pair out."""
        sides = [normalise_text(each.text) if self.stage == "respond" else each.units for each in (good, bad)]
        if sides[0] == sides[1]:
            return "equal"
        if not sides[0] or not sides[1]:
            return "empty"
        if self.filters.cut_off and good.cut_off:
            return "cut_off"
        if self.filters.shortest is not None and self._length(good) < short:
            return "short"
        if self.filters.refusal is not None and says(good.text, self.filters.refusal):
            return "refusal"
        return None

    def _length(self, said: _Said) -> int:
        return len(said.text.split()) if self.stage == "respond" else len(said.units)

    def _content(self, posed: Posed, side: _Said) -> TurnContent:
        content = content_of(posed.question)
        if self.stage == "respond":
            return replace(content, agent_text=side.text)
        return replace(content, agent_units=torch.tensor(side.units))

    def _prompt(self, posed: Posed) -> dict[str, Any]:
        question = posed.question
        prompt: dict[str, Any] = {"user_text": question.text}
        if question.units is not None:
            prompt["user_units"] = question.units.tolist()
        if question.reply is not None:
            prompt["agent_text"] = question.reply
        if question.history:
            prompt["history"] = [[turn.role, turn.text] for turn in question.history]
        return prompt

    def _side(self, said: _Said) -> dict[str, Any]:
        return {"agent_text": said.text} if self.stage == "respond" else {"agent_units": said.units}


def _rung(name: str, given: Any) -> Rung:
    """Raises InputError for keys that no rung has."""
    if isinstance(given, Rung):
        return given
    try:
        return Rung(**given)
    except TypeError as error:
        raise InputError(
            f"ladder.{name}={given}: a rung has llm, chain, beams, temperature, history_turns and "
            f"quantization ({error})"
        ) from error


def _check_units(folders: Mapping[str, Path]) -> None:
    """Raises InputError for rungs that were trained on different units."""
    known = {name: units for name, folder in folders.items() if (units := UnitSource.load(folder)) is not None}
    for name, units in known.items():
        first = next(iter(known))
        units.check(known[first], f"ladder.{name}", f"ladder.{first}")


def _loaded(folder: Path, quantization: Any) -> tuple[Any, DialogTemplate]:
    vocabulary = SpeechTextVocabulary.from_pretrained(folder)
    template = DialogTemplate(vocabulary, TemplateSettings.load(folder))
    return load_for_generation(folder, quantization=quantization), template
