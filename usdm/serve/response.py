"""A reply that is being made, and how the protocol tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from usdm.serve.audio_formats import PCM16
from usdm.serve.conversation import Item
from usdm.serve.engine_events import ReplyEnded, Usage
from usdm.serve.settings import ReplySettings, SessionConfig

Event = dict[str, Any]


@dataclass(eq=False)
class Response:
    """A reply that is being made."""

    id: str
    item_id: str
    question_id: str
    settings: ReplySettings
    metadata: dict[str, str] | None
    sound: bytearray = field(default_factory=bytearray)  # 16-bit PCM at 24 kHz
    cancelled: str | None = None  # why
    cut_ms: int | None = None  # how much of it was heard, if it was cut off

    @property
    def sound_ms(self) -> int:
        return PCM16.milliseconds(len(self.sound) // PCM16.bytes_per_sample)

    def status(self, event: ReplyEnded) -> tuple[str, Event | None]:
        """How it ended, and the protocol's details of that."""
        if event.failure is not None:
            kind = "server_error" if event.is_defect else "invalid_request_error"
            error = {"type": kind, "code": "response_failed", "message": event.failure}
            return "failed", {"type": "failed", "error": error}
        if self.cancelled is not None:
            return "cancelled", {"type": "cancelled", "reason": self.cancelled}
        if event.truncated:
            return "incomplete", {"type": "incomplete", "reason": "max_output_tokens"}
        return "completed", None

    def as_dict(
        self, conversation_id: str, status: str, details: Event | None, item: Item | None, usage: Usage | None
    ) -> Event:
        """As the protocol has it; `item` and `usage` when it has ended."""
        output = SessionConfig(self.settings).as_dict("", "")["audio"]["output"]
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": [] if item is None else [item.as_dict()],
            "conversation_id": conversation_id,
            "output_modalities": [self.settings.modality],
            "max_output_tokens": self.settings.max_output_tokens or "inf",
            "audio": {"output": {"format": output["format"], "voice": self.settings.voice}},
            "metadata": self.metadata,
            "usage": None if usage is None else _usage(usage),
        }


def _usage(usage: Usage) -> Event:
    read, written = usage.read_text + usage.read_units, usage.written_text + usage.written_units
    return {
        "total_tokens": read + written,
        "input_tokens": read,
        "output_tokens": written,
        "input_token_details": {
            "text_tokens": usage.read_text,
            "audio_tokens": usage.read_units,
            "cached_tokens": usage.cached,
        },
        "output_token_details": {"text_tokens": usage.written_text, "audio_tokens": usage.written_units},
    }
