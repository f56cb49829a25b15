"""What one client may take of a server, so that no other has less."""

from __future__ import annotations

from dataclasses import dataclass, fields

from usdm.types import InputError


@dataclass(frozen=True)
class Limits:
    """Of a server, and of each of its sessions."""

    sessions: int = 32  # open at once
    message_bytes: int = 1_000_000  # of one event from a client; 15 s of sound as base64
    upload_bytes: int = 25_000_000  # of one file for `/v1/audio/transcriptions`
    turn_seconds: float = 60.0  # of one turn's sound, and of a file
    idle_seconds: float = 300.0  # without an event from the client
    items: int = 500  # of one conversation
    unread_bytes: int = 8_000_000  # sent to a client that does not read; 2.5 minutes of sound
    waiting_seconds: float = 10.0  # of sound that was received and not heard yet: then nothing more is received

    def __post_init__(self) -> None:
        for field in fields(self):
            if (value := getattr(self, field.name)) <= 0:
                raise InputError(f"limits.{field.name}={value}: give a number above 0")
