"""Held-out dialogs: user turns as recordings, and the agent turns that they should meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.types import InputError, Turn


@dataclass(frozen=True)
class HeldOutItem:
    """One user turn, the agent turn that followed it, and the texts that came before."""

    user: Utterance
    agent: Utterance
    history: tuple[Turn, ...]  # text only, oldest first, as the dialog was written

    @property
    def id(self) -> str:
        return self.user.id

    @property
    def dialog(self) -> str:
        return self.user.dialog

    @property
    def references(self) -> tuple[str, str]:
        """What the user and the agent say."""
        return self.user.text or "", self.agent.text or ""


def read_held_out(folder: str | Path, split: str | None = None) -> list[HeldOutItem]:
    """Every user turn that an agent turn follows, in the manifest's order of dialogs.

    `folder` is a speech corpus (`manifest.jsonl`) whose rows of one dialog stand together or apart, with
    recordings of both sides: the agent's are a synthesiser saying the agent's text. `split` None takes all.

    Raises:
        InputError: the manifest is missing or wrong, a turn has no text or no sound file, or there is no item.
    """
    turns = list(read_speech_corpora([folder], split))
    first_seen = {dialog: place for place, dialog in reversed(list(enumerate(turn.dialog for turn in turns)))}
    turns.sort(key=lambda turn: (first_seen[turn.dialog], turn.turn))
    items = []
    for _, dialog in groupby(turns, key=lambda turn: turn.dialog):
        items += _dialog_items(list(dialog))
    if not items:
        raise InputError(f"{folder}: no user turn is followed by an agent turn; give a corpus of dialogs")
    return items


def _dialog_items(turns: Sequence[Utterance]) -> list[HeldOutItem]:
    for turn in turns:
        if not turn.text:
            raise InputError(f"{turn.id}: a held-out turn without text cannot be scored; add it to the manifest")
        if not turn.audio.is_file():
            raise InputError(f"{turn.audio}: no such file, though the manifest names it; copy the corpus again")
    items = []
    for place, (user, agent) in enumerate(zip(turns, turns[1:], strict=False)):
        if (user.role, agent.role) == ("user", "agent"):
            history = tuple(Turn("user" if turn.role == "user" else "agent", turn.text or "") for turn in turns[:place])
            items.append(HeldOutItem(user, agent, history))
    return items


def spread(items: Sequence[HeldOutItem], limit: int | None) -> list[HeldOutItem]:
    """The items of `limit` dialogs taken at even distances over the whole set; None keeps all."""
    dialogs = list(dict.fromkeys(item.dialog for item in items))
    if limit is None or limit >= len(dialogs):
        return list(items)
    if limit < 1:
        raise InputError(f"limit={limit}: at least one dialog must be left; give 1 or more")
    kept = {dialogs[place * len(dialogs) // limit] for place in range(limit)}
    return [item for item in items if item.dialog in kept]
