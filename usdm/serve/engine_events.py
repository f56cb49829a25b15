"""What the engine tells a session, in the order in which it happens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from usdm.types import Role


@dataclass(frozen=True)
class TurnStarted:
    """Somebody speaks, and long enough to be meant."""

    start_ms: int  # of the session's input


@dataclass(frozen=True)
class SoundHeld:
    """Somebody may be speaking over a reply: its sound is to wait until that is known."""


@dataclass(frozen=True)
class SoundResumed:
    """Nobody was: the reply's sound goes on."""


@dataclass(frozen=True)
class TurnStopped:
    """They have finished, or spoken for as long as a turn may last."""

    end_ms: int  # of the session's input


@dataclass(frozen=True, eq=False)
class TurnHeard:
    """A committed turn, ready to be answered."""

    item_id: str
    units: Tensor  # (U,) int64
    sound: bytes  # 16-bit PCM
    sound_rate: int  # Hz
    sound_ms: int


@dataclass(frozen=True)
class TurnRefused:
    """A committed turn in which nobody can have spoken."""

    item_id: str
    message: str


@dataclass(frozen=True)
class Transcribed:
    """The words of an item, asked for by themselves."""

    item_id: str
    text: str


@dataclass(frozen=True)
class TranscriptionFailed:
    item_id: str
    message: str


@dataclass(frozen=True)
class PartialTranscript:
    """What was said so far in a turn that goes on, as it was understood in a pause."""

    text: str


@dataclass(frozen=True)
class HeardText:
    """What of an agent's text had been said when it was cut off."""

    item_id: str
    heard_ms: int
    text: str


@dataclass(frozen=True)
class ReplyText:
    """The whole text of one side."""

    reply_id: str
    role: Role
    text: str


@dataclass(frozen=True)
class ReplySound:
    """The next stretch of a reply's sound."""

    reply_id: str
    wire: bytes  # in the format that the client wants
    sound: bytes  # 16-bit PCM at 24 kHz


@dataclass(frozen=True)
class Usage:
    """Ids that the language model has read and written for a reply."""

    read_text: int = 0
    read_units: int = 0
    cached: int = 0  # of those read: already before the turn ended
    written_text: int = 0
    written_units: int = 0


@dataclass(frozen=True, eq=False)
class ReplyEnded:
    """Nothing more comes of this reply. One of `failure`, `cancelled` or neither."""

    reply_id: str
    units: Tensor  # (U,) int64, as far as they were written
    usage: Usage
    truncated: bool = False  # it met its limit of tokens
    cancelled: bool = False
    failure: str | None = None
    is_defect: bool = False  # the failure is the server's


@dataclass(frozen=True)
class Fault:
    """Something that the session asked for could not be done."""

    message: str
    is_defect: bool


EngineEvent = (
    TurnStarted
    | SoundHeld
    | SoundResumed
    | TurnStopped
    | TurnHeard
    | TurnRefused
    | Transcribed
    | TranscriptionFailed
    | PartialTranscript
    | HeardText
    | ReplyText
    | ReplySound
    | ReplyEnded
    | Fault
)
