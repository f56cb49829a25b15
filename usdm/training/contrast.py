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
from typing import Any

import numpy as np
import torch

from usdm.chain.locations import bundle_locations, find_parts
from usdm.chain.stages import Answer, LanguageModelChain
from usdm.data.unit_corpus import UnitCorpus, UnitSource
from usdm.lm import ContinuousBatch, load_for_generation
from usdm.lm.reward_model import RewardModel
from usdm.metrics.text import says
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings, TurnContent
from usdm.tokens.template import normalise_text
from usdm.training.exchanges import Exchange, read_exchanges
from usdm.training.rewards import content_of, own_ear
from usdm.types import InputError, Sampling

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rung:
    """One configuration of the family: what it has less of than the rung above is what makes it worse."""

    llm: str | Path | None = None  # folder of its language model: smaller, or trained for less; None: the embedded one
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


@dataclass(frozen=True)
class ContrastReport:
    """What became of the pairs."""

    questions: int
    pairs: int  # written
    left_out: Mapping[str, int]  # by filter, the first that leaves a pair out
    by_rungs: Mapping[str, int]  # of those written: "BETTER > WORSE"


@dataclass(frozen=True, eq=False)
class _Said:
    """A reply of one rung."""

    text: str
    units: list[int]
    cut_off: bool


@dataclass(frozen=True)
class Contrast:
    """Where pairs come from.

    Raises InputError for a ladder without two rungs, or for a rung that is no configuration.
    """

    ladder: Mapping[str, Any]  # rungs by name, the best first
    corpora: Sequence[str | Path]  # unit corpora, whose user turns are asked
    split: str = "train"
    stage: str = "respond"  # what differs: the words of replies, or ("speak") the units of the corpus' own replies
    typed: bool = False  # questions are read as text, and not heard
    questions: int | None = None  # so many, drawn by the seed; None: all
    filters: Filters = field(default_factory=Filters)
    max_new_tokens: int = 64  # of a stage that writes text; units have as many as the model takes
    capacity: int = 32  # sequences that a language model writes at once
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ladder", {name: _rung(name, given) for name, given in self.ladder.items()})
        if len(self.ladder) < 2:
            raise InputError(
                f"ladder={sorted(self.ladder)}: name two rungs or more, the best first, such as "
                "+source.ladder.good.llm=A +source.ladder.bad.llm=B"
            )
        if len(set(self.ladder.values())) < len(self.ladder):
            raise InputError("ladder: two rungs are the same configuration: change one, or leave it out")
        if self.stage not in ("respond", "speak"):
            raise InputError(f"stage={self.stage!r}: there are respond and speak")

    def pairs(self) -> tuple[list[dict[str, Any]], ContrastReport]:
        """Rows of a file of pairs (`usdm.data.preferences`), and what became of the others.

        Raises InputError if a rung cannot be loaded, knows other units, or does not answer, or if no pair is left.
        """
        corpus = UnitCorpus(list(self.corpora))
        folders = {
            name: find_parts({"llm": rung.llm or bundle_locations("tiny")["llm"]})["llm"]
            for name, rung in self.ladder.items()
        }
        for name, folder in folders.items():
            if (units := UnitSource.load(folder)) is not None:
                units.check(corpus.source, f"ladder.{name}", str(corpus.files[0]))
        judge = None if self.filters.judge is None else RewardModel.from_pretrained(self.filters.judge)
        if judge is not None and judge.settings.stage != self.stage:
            raise InputError(
                f"filters.judge={self.filters.judge}: judges the stage {judge.settings.stage}, not {self.stage}: take "
                "one of that stage"
            )
        most = max(rung.history_turns for rung in self.ladder.values())
        asked = self._exchanges(corpus, most)
        ear = LanguageModelChain(*_loaded(next(iter(folders.values())), None), "multi_step")
        said = {
            name: list(self._answers(folders[name], rung, self._exchanges(corpus, rung.history_turns), ear))
            for name, rung in self.ladder.items()
        }
        return self._filtered(asked, said, judge)

    def _exchanges(self, corpus: UnitCorpus, history_turns: int) -> list[Exchange]:
        """The same questions, whatever comes before them."""
        return read_exchanges(
            corpus,
            self.split,
            stage=self.stage,
            typed=self.typed,
            history_turns=history_turns,
            limit=self.questions,
            seed=self.seed,
        )

    def _answers(
        self, folder: Path, rung: Rung, exchanges: Sequence[Exchange], ear: LanguageModelChain
    ) -> Iterator[_Said]:
        """Of one rung to all questions. A rung that writes no words is heard."""
        model, template = _loaded(folder, rung.quantization)
        chain = LanguageModelChain(model, template, rung.chain)
        layout = template.layout(chain.name)
        silent = "respond" not in layout.stages
        speak = self.stage == "speak" or silent
        texts = Sampling(rung.temperature, max_new_tokens=self.max_new_tokens, num_beams=rung.beams)
        if silent and self.typed:
            raise InputError(
                f"chain={chain.name} hears and says, and reads nothing: give typed=false, or another chain"
            )
        answers: list[Answer | None] = [None] * len(exchanges)

        def program(place: int, exchange: Exchange) -> Any:
            own = {"transcribe": Sampling(max_new_tokens=self.max_new_tokens), "respond": texts, "speak": Sampling()}
            if self.stage == "speak":
                own["speak"] = Sampling(rung.temperature, num_beams=rung.beams)
            settings = {stage: replace(each, seed=self.seed * 1_000_003 + place) for stage, each in own.items()}
            question = exchange.question
            if question.units is not None and self.stage == "respond":
                question = replace(question, text=None)  # the rung is to hear it by itself
            if silent:
                question = replace(question, text=None, reply=None)
            return chain.program(question, settings, speak)

        programs = ((place, program(place, each)) for place, each in enumerate(exchanges))
        for place, answer in ContinuousBatch(model, self.capacity).run(programs):
            if isinstance(answer, Exception):
                raise InputError(f"{exchanges[place].id}, {folder}: {answer}") from answer
            answers[place] = answer
        whole = [answer for answer in answers if answer is not None]
        units = [[] if each.agent_units is None else each.agent_units.tolist() for each in whole]
        heard = own_ear(ear, [each.agent_units for each in whole]) if silent else [each.agent_text for each in whole]
        for answer, text, spoken in zip(whole, heard, units, strict=True):
            yield _Said(text or "", spoken, self.stage in answer.truncated)

    def _filtered(
        self, asked: Sequence[Exchange], said: Mapping[str, Sequence[_Said]], judge: RewardModel | None
    ) -> tuple[list[dict[str, Any]], ContrastReport]:
        lengths = [self._length(each) for replies in said.values() for each in replies]
        short = 0.0
        if self.filters.shortest is not None:
            short = float(np.mean(lengths) - self.filters.shortest * np.std(lengths))
        left_out: Counter[str] = Counter()
        kept: list[tuple[str, Exchange, _Said, _Said]] = []
        for place, exchange in enumerate(asked):
            for (better, good), (worse, bad) in combinations(said.items(), 2):
                why = self._flaw(good[place], bad[place], short)
                if why is None:
                    kept.append((f"{better} > {worse}", exchange, good[place], bad[place]))
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
        if not kept:
            told = ", ".join(f"{name} {count}" for name, count in left_out.items())
            raise InputError(f"no pair is left ({told}): give more questions, rungs further apart, or fewer filters")
        rows = [
            {
                "prompt": self._prompt(each),
                "chosen": self._side(good),
                "rejected": self._side(bad),
            }
            for _, each, good, bad in kept
        ]
        report = ContrastReport(len(asked), len(rows), dict(left_out), dict(Counter(name for name, *_ in kept)))
        return rows, report

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

    def _content(self, exchange: Exchange, side: _Said) -> TurnContent:
        content = content_of(exchange.question)
        if self.stage == "respond":
            return replace(content, agent_text=side.text)
        return replace(content, agent_units=torch.tensor(side.units))

    def _prompt(self, exchange: Exchange) -> dict[str, Any]:
        question = exchange.question
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


def _loaded(folder: Path, quantization: Any) -> tuple[Any, DialogTemplate]:
    vocabulary = SpeechTextVocabulary.from_pretrained(folder)
    template = DialogTemplate(vocabulary, TemplateSettings.load(folder))
    return load_for_generation(folder, quantization=quantization), template
