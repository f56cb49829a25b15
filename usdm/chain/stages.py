"""Chains: what turns a heard or typed question into a reply, in text and units.

A chain of the speech-text model is a layout of the dialog template; its stages continue one sequence. Anything
else that answers a question (a recogniser, a text model and a synthesiser in a row, say) can stand in its place
behind the same protocol.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from usdm.chain.rejection import EvidenceReader, Rejection, heard_turn
from usdm.lm import GenerateRequest, LanguageModel, StageProgram, TokenEvent, TokenStream, check_sampling, finish, play
from usdm.tokens import DialogTemplate, TurnContent
from usdm.tokens.layout import STAGES, TurnLayout
from usdm.types import InputError, Role, Sampling, Turn, Waveform


@dataclass(frozen=True)
class Question:
    """The user's turn after the turns before it: heard (`waveform` and its `units`), typed (`text`), or heard with
    its transcript known (all three). `reply` is what to answer, where that is settled too."""

    waveform: Waveform | None = None
    units: Tensor | None = None  # (U,) int64
    text: str | None = None
    history: tuple[Turn, ...] = ()
    reply: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a chain makes of a question; None where it has no such step."""

    user_text: str | None
    agent_text: str | None
    agent_units: Tensor | None  # (U,) int64
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by stage
    truncated: tuple[str, ...] = ()  # stages that met their limit before their stop id


@dataclass(frozen=True)
class SpokenText:
    """What one side says, as soon as all of it is known."""

    role: Role
    text: str


class Chain(Protocol):
    """Answers questions."""

    def answer(self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True) -> Answer:
        """`sampling` by stage, greedy where it has none; without `speak` the reply stays text."""
        ...


class LanguageModelChain:
    """The stages of one layout, one after the other, over one sequence and one cache.

    What a question brings along (its transcript, its reply) is read instead of written.
    """

    def __init__(
        self,
        model: LanguageModel,
        template: DialogTemplate,
        layout: str | None = None,
        stream: TokenStream | None = None,
        rejection: Rejection | None = None,
        reader: EvidenceReader | None = None,
    ) -> None:
        """`layout` None is the checkpoint's own. `stream` is what all answers go through, one at a time: each goes
        back to where it departs from the one before; None gives each a new one. `rejection` decides which turns get a
        refusal as their reply, by what `reader` reads; None refuses nothing. Raises InputError for a layout that is
        unknown or gives no answer, or that the rejection was not fitted for."""
        self.model = model
        self.template = template
        self.name = template.layout(layout).name
        if "speak" not in template.layout(layout).stages:
            raise InputError(f"chain={self.name} hears and says nothing: it is for training; take another")
        self.stream = stream
        self.rejection, self._evidence = rejection, reader
        if rejection is not None:
            rejection.check_layout(self.name)

    def answer(self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True) -> Answer:
        """Raises InputError if the chain needs what the question lacks, has no place for what it brings, or has no
        stage of that name."""
        return finish(self.live(question, sampling, speak))

    def live(
        self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True
    ) -> Generator[SpokenText | int, None, Answer]:
        """`answer`, step by step: yields each text when it is known and each unit of the reply when it is written.

        Timings leave out what the caller does between two steps.
        """
        stream = self.stream or TokenStream(self.model)
        read = self._go_back(stream, self.prompt(question, speak)) if stream.ids else 0
        said: list[SpokenText] = []
        away: dict[str, float] = defaultdict(float)
        with closing(play(self.program(question, sampling, speak, read, said.append), stream)) as steps:
            answer = yield from self._live(steps, said, away)
        timings = {stage: seconds - away[stage] for stage, seconds in answer.timings.items()}
        return replace(answer, timings=timings)

    def read_ahead(self, question: Question) -> None:
        """Read a question whose last units are still to come, so that `answer` has only those left to read.

        The chain must have a stream of its own. Raises InputError as `answer` does.
        """
        assert self.stream is not None
        ids, is_unit = self.prompt(question), self.template.vocabulary.unit_mask
        while not is_unit[ids[-1]]:
            ids.pop()
        self.stream.extend(ids[self._go_back(self.stream, ids) :])

    def continued(
        self,
        question: Question,
        sampling: Mapping[str, Sampling],
        speak: bool = True,
        tell: Callable[[SpokenText], None] = lambda text: None,
    ) -> StageProgram[Answer]:
        """`program` for a player that copies the chain's own stream, which goes back to where the question departs.

        The stream must stay as it is until then. Raises InputError as `answer` does.
        """
        assert self.stream is not None
        return self.program(question, sampling, speak, self._go_back(self.stream, self.prompt(question, speak)), tell)

    def program(
        self,
        question: Question,
        sampling: Mapping[str, Sampling],
        speak: bool = True,
        read: int = 0,
        tell: Callable[[SpokenText], None] = lambda text: None,
    ) -> StageProgram[Answer]:
        """The same for whoever plays it: a stream, a batch, a server. Raises as `answer` does, at its first step.

        `read`: ids at the beginning that the player's sequence already has. `tell` hears each text when it is known.
        """
        layout, content, stages = self._plan(question, speak)
        if content.user_text is not None:
            tell(SpokenText("user", content.user_text))
        if content.agent_text is not None:
            tell(SpokenText("agent", content.agent_text))
        timings: dict[str, float] = {}
        truncated: list[str] = []
        heard: list[int] | None = None  # what the model itself has transcribed
        unread: list[int] = []  # a reply that was not written, and what stands before it
        for place, stage in enumerate(stages):
            with timed(timings, stage):
                if place == 0:
                    ids = self.template.prompt(stage, content, question.history, layout.name)[read:]
                else:
                    ids = [*unread, *self.template.following(stages[place - 1], layout.name)]
                if stage == "respond" and self._refuses(layout.name, content, heard):
                    assert self.rejection is not None
                    content = replace(content, agent_text=self.rejection.config.reply)
                    unread = [*ids, *self.template.reply_ids(self.rejection.config.reply, layout.name)]
                    tell(SpokenText("agent", self.rejection.config.reply))
                    continue
                unread = []
                generated = yield GenerateRequest(
                    stage,
                    ids,
                    self.template.allowed(stage, layout.name),
                    {self.template.stop_id(stage, layout.name)},
                    sampling.get(stage, Sampling()),
                )
            slot = layout.slot_of(stage)
            content = self._with(content, slot, generated.ids)
            if slot == "user_text":
                heard = generated.ids
                tell(SpokenText("user", content.user_text or ""))
            elif slot == "agent_text":
                tell(SpokenText("agent", content.agent_text or ""))
            if not generated.stopped:
                truncated.append(stage)
        return Answer(content.user_text, content.agent_text, content.agent_units, timings, tuple(truncated))

    def transcription(self, question: Question, sampling: Mapping[str, Sampling]) -> StageProgram[str]:
        """Of a heard question its words alone, answered or not. Raises as `answer` does, at its first step, and for a
        chain that does not transcribe."""
        return self.template.vocabulary.decode_text((yield from self.transcript_ids(question, sampling)))

    def transcript_ids(self, question: Question, sampling: Mapping[str, Sampling]) -> StageProgram[list[int]]:
        """The same as the ids that are written, without the one that ends them."""
        content = TurnContent(user_units=question.units)
        generated = yield GenerateRequest(
            "transcribe",
            self.template.prompt("transcribe", content, question.history, self.name),
            self.template.allowed("transcribe", self.name),
            {self.template.stop_id("transcribe", self.name)},
            sampling.get("transcribe", Sampling()),
        )
        return generated.ids

    def _live(
        self, steps: Generator[TokenEvent, None, Answer], said: list[SpokenText], away: dict[str, float]
    ) -> Generator[SpokenText | int, None, Answer]:
        """`away` collects the seconds spent outside by the stage that they fall into."""
        offset = self.template.vocabulary.layout.unit_offset
        while True:
            try:
                written = next(steps)
            except StopIteration as end:
                yield from said
                answer: Answer = end.value
                return answer
            start = time.perf_counter()
            yield from said
            said.clear()
            if written.stage == "speak":
                yield written.id - offset
            away[written.stage] += time.perf_counter() - start

    def _refuses(self, layout: str, content: TurnContent, heard: Sequence[int] | None) -> bool:
        """Whether the turn, whose words are known, is outside of what the model was made for."""
        if self.rejection is None or self._evidence is None:
            return False
        return self.rejection.refuses(self._evidence, heard_turn(self.template, layout, content, heard))

    def _plan(self, question: Question, speak: bool) -> tuple[TurnLayout, TurnContent, list[str]]:
        """The layout that takes the question, what is given of the turn, and the stages that are left to write."""
        layout = self.template.layout(self._layout_for(question))
        content = TurnContent(user_units=question.units, user_text=question.text, agent_text=question.reply)
        slots = {layout.slot_of(stage) for stage in layout.stages} | set(layout.given)
        for slot in ("user_text", "agent_text"):
            if getattr(content, slot) is not None and slot not in slots:
                raise InputError(f"chain={layout.name} has no {slot}: leave it out, or take another chain")
        left = [stage for stage in layout.stages if getattr(content, layout.slot_of(stage)) is None]
        if left != list(layout.stages[len(layout.stages) - len(left) :]):
            raise InputError("a given reply needs the words before it: give what the user says as well")
        if not speak and "respond" not in layout.stages:
            raise InputError(f"chain={layout.name} writes no text: it cannot reply in text alone")
        return layout, content, [stage for stage in left if speak or stage != "speak"]

    def prompt(self, question: Question, speak: bool = True) -> list[int]:
        """All ids before the first that is written; none if nothing is."""
        layout, content, stages = self._plan(question, speak)
        return self.template.prompt(stages[0], content, question.history, layout.name) if stages else []

    def _go_back(self, stream: TokenStream, prompt: Sequence[int]) -> int:
        """Let the stream forget what departs from the prompt: the number of ids that it still shares with it."""
        pairs = zip(stream.ids, prompt, strict=False)
        shared = next((place for place, (mine, theirs) in enumerate(pairs) if mine != theirs), None)
        if shared is None:
            shared = min(len(stream.ids), len(prompt))
        stream.rollback(shared)
        return shared

    def _layout_for(self, question: Question) -> str:
        if question.text is None or question.units is not None:
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
