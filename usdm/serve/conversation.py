"""A conversation's items, in their order: what was said, what was meant to be said, and what of it was heard."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from usdm.audio import resample
from usdm.serve.audio_formats import PCM16
from usdm.serve.client_events import EventError
from usdm.types import Role, Turn

Status = Literal["in_progress", "completed", "incomplete"]
PROTOCOL_ROLES: dict[Role, str] = {"user": "user", "agent": "assistant"}


@dataclass(frozen=True, eq=False)
class Item:
    """One message. Of an agent's, what was cut off is kept beside what was heard."""

    id: str
    role: Role
    spoken: bool  # False: written
    status: Status = "completed"
    text: str | None = None  # None: not known yet
    units: Tensor | None = None  # (U,) int64
    sound: bytes = b""  # 16-bit PCM
    sound_rate: int = PCM16.sample_rate  # Hz
    sound_ms: int = 0
    heard_ms: int | None = None  # of an agent's sound, if it was cut off
    heard_text: str | None = None  # what of the text was heard by then

    @property
    def known_text(self) -> str:
        """What the other side has taken in."""
        return (self.text if self.heard_text is None else self.heard_text) or ""

    def wire_sound(self) -> bytes:
        """16-bit PCM at 24 kHz."""
        if self.sound_rate == PCM16.sample_rate:
            return self.sound
        return PCM16.encode(resample(PCM16.decode(self.sound), self.sound_rate, PCM16.sample_rate))

    def content(self, with_sound: str | None = None) -> dict[str, Any]:
        """The protocol's content part. `with_sound`: base64 of it."""
        side = "input" if self.role == "user" else "output"
        if not self.spoken:
            return {"type": f"{side}_text", "text": self.known_text}
        part: dict[str, Any] = {"type": f"{side}_audio", "transcript": None if self.text is None else self.known_text}
        if with_sound is not None:
            part["audio"] = with_sound
            part["usdm"] = {"units": [] if self.units is None else self.units.tolist()}
        if self.heard_ms is not None:
            part["usdm"] = {
                **part.get("usdm", {}),
                "heard_ms": self.heard_ms,
                "made_ms": self.sound_ms,
                "unheard_transcript": (self.text or "")[len(self.heard_text or "") :].strip(),
            }
        return part

    def as_dict(self, with_sound: str | None = None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": PROTOCOL_ROLES[self.role],
            "content": [] if self.status == "in_progress" else [self.content(with_sound)],
        }


class Conversation:
    """Items by id. Raises EventError for an id that is not there."""

    def __init__(self, most: int, sound_ms: int = 600_000) -> None:
        """`most`: items. `sound_ms`: of how much sound the samples are kept, the latest."""
        self._most = most
        self._sound_ms = sound_ms
        self._items: list[Item] = []

    def __len__(self) -> int:
        return len(self._items)

    def get(self, id_: str, param: str = "item_id") -> Item:
        return self._items[self._place(id_, param)]

    def has(self, id_: str) -> bool:
        return any(item.id == id_ for item in self._items)

    def all(self) -> list[Item]:
        return list(self._items)

    def before(self, id_: str) -> str | None:
        """The id of the item before."""
        place = self._place(id_)
        return self._items[place - 1].id if place else None

    def add(self, item: Item, after: str | None = None) -> str | None:
        """At the end, after an item, or first of all (`root`): the id of the item before it.

        Raises EventError for an id that is taken, and when there are too many.
        """
        place = self.check_place(item.id, after)
        self._items.insert(place, item)
        self._forget_sound()
        return self._items[place - 1].id if place else None

    def check_place(self, id_: str, after: str | None) -> int:
        """Where `add` would put it. Raises what `add` does."""
        if len(self._items) >= self._most:
            raise EventError(f"a conversation has {self._most} items at most: delete some", "too_many_items")
        if self.has(id_):
            raise EventError(f"there is an item {id_!r} already: choose another id", "invalid_value", "item.id")
        if after is None:
            return len(self._items)
        return 0 if after == "root" else self._place(after, "previous_item_id") + 1

    def change(self, id_: str, **new: Any) -> Item:
        place = self._place(id_)
        self._items[place] = replace(self._items[place], **new)
        self._forget_sound()
        return self._items[place]

    def delete(self, id_: str) -> None:
        del self._items[self._place(id_)]

    def question(self) -> Item:
        """What the next reply answers: the last item. Raises EventError unless it is the user's."""
        if not self._items or self._items[-1].role != "user":
            raise EventError(
                "there is nothing to answer: the last item must be the user's; commit audio or create an item",
                "nothing_to_answer",
            )
        return self._items[-1]

    def before_question(self, question: Item) -> list[Item]:
        return self._items[: self._place(question.id)]

    def unknown(self) -> list[Item]:
        """The user's items that wait for their transcripts."""
        return [item for item in self._items if item.role == "user" and item.text is None]

    def _place(self, id_: str, param: str = "item_id") -> int:
        for place, item in enumerate(self._items):
            if item.id == id_:
                return place
        raise EventError(f"there is no item {id_!r} in this conversation", "item_not_found", param)

    def _forget_sound(self) -> None:
        """Let go of the oldest items' samples when all together are too long."""
        room = self._sound_ms
        for place in reversed(range(len(self._items))):
            item = self._items[place]
            room -= item.sound_ms if item.sound else 0
            if room < 0 and item.sound:
                self._items[place] = replace(item, sound=b"")


def turns(items: list[Item]) -> tuple[Turn, ...]:
    """Finished items as the model reads them."""
    said = [
        (item.role, item.known_text.replace("\ufffd", "").strip()) for item in items if item.status != "in_progress"
    ]
    return tuple(Turn(role, text) for role, text in said if text)
