"""What happened in a measured conversation, in seconds of its own clock, and what that says of the server.

Nothing is clamped: a reply that begins before the person has finished counts as a cut-off, by how many seconds it was
early, and not as a fast reply; and every second in which both speak counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

HISTORY_TOLERANCE = 0.25  # seconds by which the record of what was heard may differ from what was played
AFTER_SPEECH = 0.6  # seconds after somebody spoke in which the detection of speech may still be told


@dataclass(frozen=True)
class Stretch:
    start: float  # seconds
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def moved(self, seconds: float) -> Stretch:
        return Stretch(self.start + seconds, self.end + seconds)

    def common(self, other: Stretch) -> float:
        """Seconds that lie in both."""
        return max(0.0, min(self.end, other.end) - max(self.start, other.start))


@dataclass(frozen=True)
class SaidAct:
    """What the person said, and when."""

    kind: str  # "turn", "interruption", "backchannel"; an interruption that came too late is a turn
    whole: Stretch
    speech: tuple[Stretch, ...]  # without the pauses


@dataclass(frozen=True)
class PlayedReply:
    """A reply as it was heard."""

    item: str
    sound: tuple[Stretch, ...]  # as it was played, with the gaps in which more was waited for
    cut: bool  # the person stopped it
    played: float  # seconds of its sound

    @property
    def start(self) -> float:
        return self.sound[0].start

    @property
    def end(self) -> float:
        return self.sound[-1].end


@dataclass(frozen=True)
class Event:
    time: float
    type: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeline:
    id: str
    acts: tuple[SaidAct, ...]
    replies: tuple[PlayedReply, ...]
    events: tuple[Event, ...]  # of the server, without sound
    sound: Tensor  # (T,) float32 at 24 kHz, all that was played, from the conversation's beginning
    lag: float  # seconds by which the talker itself was late at worst


@dataclass(frozen=True)
class Figures:
    """Of one conversation; of several: `added`."""

    first_sound: tuple[float, ...] = ()  # seconds from the end of a turn to its reply's first sound
    early: tuple[float, ...] = ()  # seconds, below zero, of replies that began before the end of the turn
    silence: tuple[float, ...] = ()  # seconds from an interruption's start to silence
    turns: int = 0  # with interruptions
    turns_with_pause: int = 0
    cut_off: int = 0  # turns in which a reply began
    missed: int = 0  # turns without a reply
    interruptions: int = 0
    not_stopped: int = 0  # interruptions through which the reply went on to its end
    backchannels: int = 0
    stopped_by_backchannel: int = 0
    self_interruptions: int = 0  # speech was heard while only the reply, or nobody, spoke
    history_errors: int = 0  # cut replies whose record is missing or is not what was played
    overlap: float = 0.0  # seconds in which the reply sounded over the person's speech
    errors: int = 0  # error events
    lag: float = 0.0


def figures(timeline: Timeline) -> Figures:
    first, early, silence = [], [], []
    counts = dict.fromkeys(("turns", "turns_with_pause", "cut_off", "missed", "interruptions", "not_stopped"), 0)
    counts |= {"backchannels": 0, "stopped_by_backchannel": 0}
    spoken = [act for act in timeline.acts if act.kind != "backchannel"]
    for act, following in zip(spoken, [*spoken[1:], None], strict=True):
        counts["turns"] += 1
        counts["turns_with_pause"] += len(act.speech) > 1
        delays = _delays(timeline, act, following)
        counts["missed"] += not delays
        counts["cut_off"] += any(delay < 0 for delay in delays)
        early += [delay for delay in delays if delay < 0]
        first += [delay for delay in delays if delay >= 0][:1]
        if act.kind == "interruption" and (before := _sounding(timeline, act.whole.start)) is not None:
            counts["interruptions"] += 1
            counts["not_stopped"] += not before.cut
            silence.append(before.end - act.whole.start)
    for act in timeline.acts:
        if act.kind == "backchannel" and (before := _sounding(timeline, act.whole.start)) is not None:
            counts["backchannels"] += 1
            counts["stopped_by_backchannel"] += before.cut and before.end <= act.whole.end + AFTER_SPEECH
    speech = [stretch for act in timeline.acts for stretch in act.speech]
    sound = [stretch for reply in timeline.replies for stretch in reply.sound]
    return Figures(
        tuple(first),
        tuple(early),
        tuple(silence),
        **counts,
        self_interruptions=sum(_by_nobody(event.time, speech) for event in _of(timeline, "speech_started")),
        history_errors=sum(not _recorded(timeline, reply) for reply in timeline.replies if reply.cut),
        overlap=sum(mine.common(theirs) for mine in sound for theirs in speech),
        errors=sum(event.type == "error" for event in timeline.events),
        lag=timeline.lag,
    )


def _delays(timeline: Timeline, act: SaidAct, following: SaidAct | None) -> list[float]:
    """Of the replies that began since the turn did and before the next one does: seconds from the turn's end."""
    until = float("inf") if following is None else following.whole.start
    starts = [reply.start for reply in timeline.replies if act.whole.start < reply.start < until]
    return [start - act.whole.end for start in starts]


def _sounding(timeline: Timeline, time: float) -> PlayedReply | None:
    return next((reply for reply in timeline.replies if reply.start <= time < reply.end), None)


def _of(timeline: Timeline, name: str) -> Iterator[Event]:
    return (event for event in timeline.events if event.type == f"input_audio_buffer.{name}")


def _by_nobody(time: float, speech: Sequence[Stretch]) -> bool:
    return not any(stretch.start <= time <= stretch.end + AFTER_SPEECH for stretch in speech)


def _recorded(timeline: Timeline, reply: PlayedReply) -> bool:
    """Whether the conversation's record of a cut reply ends where its sound did."""
    for event in timeline.events:
        if event.type == "conversation.item.truncated" and event.data.get("item_id") == reply.item:
            return abs(event.data["audio_end_ms"] / 1000 - reply.played) <= HISTORY_TOLERANCE
    return False


def added(parts: Sequence[Figures]) -> Figures:
    """Of all conversations together."""
    return Figures(
        **{
            name: max(getattr(part, name) for part in parts)
            if name == "lag"
            else sum((getattr(part, name) for part in parts), start=type(getattr(parts[0], name))())
            for name in Figures.__dataclass_fields__
        }
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    return float(np.percentile(values, share)) if values else None
