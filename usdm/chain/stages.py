"""Chains: what turns a heard or typed question into a reply, in text and units.

A chain of the speech-text model is a layout of the dialog template; its stages continue one sequence. Anything
else that answers a question (a recogniser, a text model and a synthesiser in a row, say) can stand in its place
behind the same protocol.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from usdm.lm import Script, TokenStream, Write, check_sampling, finish, play
from usdm.tokens import DialogTemplate, TurnContent
from usdm.tokens.layout import STAGES
from usdm.types import InputError, Sampling, Turn, Waveform


@dataclass(frozen=True)
class Question:
    """The user's turn, heard (`waveform` and its `units`) or typed (`text`), after the turns before it."""

    waveform: Waveform | None = None
    units: Tensor | None = None  # (U,) int64
    text: str | None = None
    history: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a chain makes of a question; None where it has no such step."""

    user_text: str | None
    agent_text: str | None
    agent_units: Tensor | None  # (U,) int64
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by stage
    truncated: tuple[str, ...] = ()  # stages that met their limit before their stop id


class Chain(Protocol):
    """Answers questions."""

    def answer(self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True) -> Answer:
        """`sampling` by stage, greedy where it has none; without `speak` the reply stays text."""
        ...


class LanguageModelChain:
    """The stages of one layout, one after the other, over one sequence and one cache."""

    def __init__(self, model: PreTrainedModel, template: DialogTemplate, layout: str | None = None) -> None:
        """`layout` None is the checkpoint's own. Raises InputError for an unknown one."""
        self.model = model
        self.template = template
        self.name = template.layout(layout).name

    def answer(self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True) -> Answer:
        """Raises InputError if the chain needs what the question lacks, or has no stage of that name."""
        return finish(play(self.script(question, sampling, speak), TokenStream(self.model)))

    def script(self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True) -> Script[Answer]:
        """The same for whoever plays it: a stream, a batch, a server. Raises as `answer` does, at its first step."""
        layout = self.template.layout(self._layout_for(question))
        if "respond" not in layout.stages and not speak:
            raise InputError(f"chain={layout.name} writes no text: it cannot reply in text alone")
        stages = [stage for stage in layout.stages if speak or stage != "speak"]
        content = TurnContent(user_units=question.units, user_text=question.text)
        timings: dict[str, float] = {}
        truncated: list[str] = []
        for place, stage in enumerate(stages):
            with timed(timings, stage):
                if place == 0:
                    ids = self.template.prompt(stage, content, question.history, layout.name)
                else:
                    ids = self.template.following(stages[place - 1], layout.name)
                generated = yield Write(
                    stage,
                    ids,
                    self.template.allowed(stage, layout.name),
                    {self.template.stop_id(stage, layout.name)},
                    sampling.get(stage, Sampling()),
                )
            content = self._with(content, layout.slot_of(stage), generated.ids)
            if not generated.stopped:
                truncated.append(stage)
        return Answer(content.user_text, content.agent_text, content.agent_units, timings, tuple(truncated))

    def _layout_for(self, question: Question) -> str:
        if question.text is None:
            return self.name
        if "respond" not in self.template.layout(self.name).stages:
            raise InputError(f"chain={self.name} works on speech alone: give a recording instead of text")
        return "typed"

    def _with(self, content: TurnContent, slot: str, ids: list[int]) -> TurnContent:
        vocabulary = self.template.vocabulary
        new: Any = vocabulary.decode_units(ids) if slot.endswith("units") else vocabulary.decode_text(ids)
        return replace(content, **{slot: new})


def check_stages(sampling: Mapping[str, Sampling]) -> None:
    """Raises InputError for settings of a stage that does not exist, or that mean nothing."""
    for stage, settings in sampling.items():
        if stage not in STAGES:
            raise InputError(f"sampling for stage {stage!r}: there are {', '.join(STAGES)}")
        check_sampling(settings)


@contextmanager
def timed(timings: MutableMapping[str, float], stage: str) -> Iterator[None]:
    """Add the seconds that the block takes."""
    start = time.perf_counter()
    yield
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start
