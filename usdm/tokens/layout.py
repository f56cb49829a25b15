"""A dialog turn as data: what stands where, what is given and what the model writes itself.

Everything else about templates (training labels, prompts, stop ids) follows from these few tuples.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from usdm.tokens.vocabulary import CORRESPOND
from usdm.types import InputError

Slot = Literal["user_units", "user_text", "agent_text", "agent_units", "reply_a", "reply_b", "verdict"]
Stage = Literal["transcribe", "respond", "speak", "judge"]
STAGES: tuple[Stage, ...] = ("transcribe", "respond", "speak")  # of an answer
VERDICTS = ("a", "b")  # which of two replies is the better one

TEMPLATE_FILE = "template.json"
PUBLISHED_PREAMBLE = (
    "Below is a conversation between the user and the agent. Each turn includes the user's speech and its "
    "corresponding transcript, along with the agent's response text and the corresponding speech.\n\n"
)


@dataclass(frozen=True)
class Words:
    """Fixed wording."""

    text: str


@dataclass(frozen=True)
class Given:
    """Content that the model reads."""

    slot: Slot


@dataclass(frozen=True)
class Emit:
    """Content that the model writes; it stops at the first id of the wording that follows."""

    stage: Stage
    slot: Slot


Part = Words | Given | Emit


@dataclass(frozen=True)
class TurnLayout:
    """One turn after preamble and history: wording and content alternate, wording ends it."""

    name: str
    parts: tuple[Part, ...]

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(part.stage for part in self.parts if isinstance(part, Emit))

    @property
    def given(self) -> tuple[Slot, ...]:
        return tuple(part.slot for part in self.parts if isinstance(part, Given))

    def slot_of(self, stage: str) -> Slot:
        """What a stage writes. Raises InputError if the layout has no such stage."""
        for part in self.parts:
            if isinstance(part, Emit) and part.stage == stage:
                return part.slot
        raise InputError(f"layout {self.name} has no stage {stage!r}, only {', '.join(self.stages)}")


@dataclass(frozen=True)
class TurnContent:
    """The content of one turn; a layout says which of it is needed."""

    user_units: Tensor | None = None  # (U,) int64
    user_text: str | None = None
    agent_text: str | None = None
    agent_units: Tensor | None = None  # (U,) int64
    reply_a: str | None = None  # two replies to be judged
    reply_b: str | None = None
    verdict: str | None = None  # one of VERDICTS


@dataclass(frozen=True)
class TemplateSettings:
    """The wording of a checkpoint's dialogs: as published by default; a small model wants it short."""

    layout: str = "multi_step"
    preamble: str = PUBLISHED_PREAMBLE
    user_heading: str = "### User\n"
    agent_heading: str = "### Agent\n"
    history_tokens: int = 512  # earlier turns take no more than this

    def save(self, folder: str | Path) -> None:
        """Write `template.json`."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (Path(folder) / TEMPLATE_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> TemplateSettings:
        """`template.json` in `folder`, or the published settings where there is none.

        Raises InputError if the file does not hold settings.
        """
        path = Path(folder) / TEMPLATE_FILE
        if not path.is_file():
            return cls()
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: not the settings of a template ({error}); save them again") from error


def multi_step(settings: TemplateSettings, end: str) -> tuple[Part, ...]:
    """Transcribe, think of a reply, speak it (USDM, arXiv 2402.05706, section 3.3)."""
    return (
        Words(settings.user_heading),
        Given("user_units"),
        Words(CORRESPOND),
        Emit("transcribe", "user_text"),
        Words("\n" + settings.agent_heading),
        *_reply(end),
    )


def typed(settings: TemplateSettings, end: str) -> tuple[Part, ...]:
    """The user types: text stands where units would, just as an earlier turn stands in the history."""
    return (
        Words(settings.user_heading),
        Given("user_text"),
        Words("\n" + settings.agent_heading),
        *_reply(end),
    )


def units_text_units(settings: TemplateSettings, end: str) -> tuple[Part, ...]:
    """Ablation without a transcript."""
    return (
        Words(settings.user_heading),
        Given("user_units"),
        Words("\n" + settings.agent_heading),
        *_reply(end),
    )


def units_to_units(settings: TemplateSettings, end: str) -> tuple[Part, ...]:
    """Ablation without any text."""
    return (
        Words(settings.user_heading),
        Given("user_units"),
        Words("\n" + settings.agent_heading),
        Emit("speak", "agent_units"),
        Words("\n" + end),
    )


def transcribe(settings: TemplateSettings, end: str) -> tuple[Part, ...]:
    """The first step of the chain alone: for speech that nobody answered."""
    return (
        Words(settings.user_heading),
        Given("user_units"),
        Words(CORRESPOND),
        Emit("transcribe", "user_text"),
        Words("\n" + end),
    )


def judge(settings: TemplateSettings, end: str) -> tuple[Part, ...]:
    """Say which of two replies to a heard turn is the better one (SELF-JUDGE, arXiv 2402.11253, its judge examples).

    The units are there, so what counts can be how something was said.
    """
    return (
        Words(settings.user_heading),
        Given("user_units"),
        Words(CORRESPOND),
        Given("user_text"),
        *_verdict(settings, end),
    )


def judge_typed(settings: TemplateSettings, end: str) -> tuple[Part, ...]:
    """The same for a typed turn."""
    return (
        Words(settings.user_heading),
        Given("user_text"),
        *_verdict(settings, end),
    )


def _verdict(settings: TemplateSettings, end: str) -> tuple[Part, ...]:
    return (
        Words("\n" + settings.agent_heading + "a\n"),
        Given("reply_a"),
        Words("\nb\n"),
        Given("reply_b"),
        Words("\nbetter\n"),
        Emit("judge", "verdict"),
        Words("\n" + end),
    )


def _reply(end: str) -> tuple[Part, ...]:
    return (
        Emit("respond", "agent_text"),
        Words(CORRESPOND),
        Emit("speak", "agent_units"),
        Words("\n" + end),
    )


LAYOUTS: dict[str, Callable[[TemplateSettings, str], tuple[Part, ...]]] = {
    function.__name__: function
    for function in (multi_step, typed, units_text_units, units_to_units, transcribe, judge, judge_typed)
}
JUDGE_LAYOUTS = ("judge", "judge_typed")


def turn_layout(name: str, settings: TemplateSettings, end: str) -> TurnLayout:
    """The layout of that name; `end` is the token that ends sequences. Raises InputError for another."""
    if name not in LAYOUTS:
        raise InputError(f"layout={name!r}: there are {', '.join(LAYOUTS)}")
    return TurnLayout(name, LAYOUTS[name](settings, end))
