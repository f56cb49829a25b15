"""What a judge is asked of a reply, and how strictly its verdict is read.

The published prompts of VoiceBench and URO-Bench are not copied here: these say the same in other words, so their
figures are near the published ones, not the same measurement. VocalBench's prompts come with its files and are used
as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from usdm.assistants.items import Item, Score

SCALE = """Give points from 1 to 5:
1: it has little to do with what was asked, or is wrong.
2: it has something to do with it, but is incomplete or inexact.
3: it answers mostly rightly, but is wordy or has needless detail.
4: it answers rightly, clearly and briefly.
5: it answers exactly what was asked, as well as can be."""
SPOKEN = "A person asked a voice assistant something. You read what was said, as text, and grade the assistant's reply."
POINTS_ONLY = "Write the points alone, one digit, and nothing else."
VERDICT_ONLY = "Write yes or no, and nothing else."


@dataclass(frozen=True)
class Prompt:
    """What a judge reads."""

    system: str
    user: str


@dataclass(frozen=True)
class Rubric:
    """Asks, and reads the verdict: None where it is not in the form that was asked for."""

    figure: str
    ask: Callable[[Item, str], Prompt]
    read: Callable[[str], float | None]
    nothing: float = 0.0  # the score of a reply without words, for which no judge is asked

    def score(self, verdict: str) -> Score | None:
        """None: what the judge says cannot be read, which is the judge's failure and not the reply's."""
        value = self.read(verdict)
        return None if value is None else Score(value)


def _points(verdict: str) -> float | None:
    found = re.fullmatch(
        r"\s*(?:score\s*:?\s*)?\[{0,2}([1-5])(?:\.0)?\]{0,2}\s*(?:/\s*5|points?)?\.?\s*", verdict, re.I
    )
    return float(found[1]) if found else None


def _verdict(verdict: str) -> float | None:
    found = re.fullmatch(r"\W*(yes|no)\W*", verdict, re.IGNORECASE)
    return float(found[1].lower() == "yes") if found else None


def _one_of(yes: str, no: str) -> Callable[[str], float | None]:
    """Exactly one of two words in brackets."""

    def read(verdict: str) -> float | None:
        said = yes in verdict, no in verdict
        return float(said[0]) if said[0] != said[1] else None

    return read


def _bracketed_points(verdict: str) -> float | None:
    found = set(re.findall(r"\[([0-5])\]", verdict))
    return float(found.pop()) if len(found) == 1 else None


def _open(item: Item, reply: str) -> Prompt:
    return Prompt(f"{SPOKEN}\n{SCALE}\n{POINTS_ONLY}", f"The person: {item.question}\n\nThe assistant: {reply}")


def _semi_open(item: Item, reply: str) -> Prompt:
    system = f"{SPOKEN} A suggested reply is given; another one may be as good.\n{SCALE}\n{POINTS_ONLY}"
    user = f"The person: {item.question}\n\nA suggested reply: {item.reference}\n\nThe assistant: {reply}"
    return Prompt(system, user)


def _question(item: Item, reply: str) -> Prompt:
    system = f"{SPOKEN} The right answer is given. Is the assistant's reply right?\n{VERDICT_ONLY}"
    user = f"The person: {item.question}\n\nThe right answer: {item.reference}\n\nThe assistant: {reply}"
    return Prompt(system, user)


def _published(item: Item, reply: str) -> Prompt:
    """VocalBench: the prompt's file in `facts["prompt"]`, and what its script writes below it."""
    parts = []
    if item.history:
        names = {"user": "User", "agent": "Model"}
        parts.append("Context:\n " + "".join(f"{names[turn.role]}: {turn.text}\n" for turn in item.history))
    parts.append(f"Question: {item.question}")
    parts += [f"{name}: {value}" for name, value in item.facts.get("shown", {}).items()]
    return Prompt(item.facts["prompt"], "\n\n  ".join([*parts, f"Response: {reply}"]))


RUBRICS: dict[str, Rubric] = {
    "open": Rubric("points of 5", _open, _points),
    "semi_open": Rubric("points of 5", _semi_open, _points),
    "question": Rubric("accuracy", _question, _verdict),
    "vocalbench_points": Rubric("points of 5", _published, _bracketed_points, nothing=1.0),
    "vocalbench_followed": Rubric("following rate", _published, _one_of("[Yes]", "[No]")),
    "vocalbench_refusal": Rubric("refusal rate", _published, _one_of("[Succeed Refusal]", "[Failed Refusal]")),
}
