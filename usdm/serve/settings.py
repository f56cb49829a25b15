"""The settings of one session, and how a client changes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from usdm.serve.audio_formats import FORMATS, PCM16, AudioFormat
from usdm.serve.client_events import (
    EventError,
    Modality,
    OwnSettings,
    ResponseSettings,
    SessionSettings,
    TurnDetectionSettings,
)


@dataclass(frozen=True)
class TurnDetection:
    """How the end of a turn is found; see `TurnDetectionSettings`."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    eagerness: Literal["low", "medium", "high", "auto"] | None = None  # None: as the server is set
    create_response: bool = True
    interrupt_response: bool = True

    def as_dict(self) -> dict[str, Any]:
        mine = {"type": self.type}
        shared = {"create_response": self.create_response, "interrupt_response": self.interrupt_response}
        if self.type == "semantic_vad":
            return {**mine, "eagerness": self.eagerness or "auto", **shared}
        return {
            **mine,
            "threshold": self.threshold,
            "prefix_padding_ms": self.prefix_padding_ms,
            "silence_duration_ms": self.silence_duration_ms,
            **shared,
        }


@dataclass(frozen=True)
class ReplySettings:
    """How replies are made."""

    modality: Modality = "audio"
    voice: str | None = None
    output_format: AudioFormat = PCM16
    max_output_tokens: int | None = None
    temperature: float | None = None  # of the wording; None: as the model's bundle has it
    seed: int = 0


@dataclass(frozen=True)
class SessionConfig:
    """All that a client may set."""

    reply: ReplySettings = ReplySettings()
    input_format: AudioFormat = PCM16
    turn_detection: TurnDetection | None = None
    transcription: dict[str, Any] | None = None
    interrupt_after_ms: int = 400  # of speech, below which it does not stop a reply
    partial_transcripts: bool = False  # whether the client hears of them
    hold_at_once: bool = False  # whether the client stops a reply's sound while it is not known if somebody speaks

    def updated(self, new: SessionSettings, voices: list[str], kinds: list[str]) -> SessionConfig:
        """Raises EventError for a voice or a kind of turn detection that this server lacks."""
        config = self
        given = new.audio.input.given()
        if "format" in given and new.audio.input.format is not None:
            config = replace(config, input_format=FORMATS[new.audio.input.format.type])
        if "transcription" in given:
            wanted = new.audio.input.transcription
            config = replace(config, transcription=None if wanted is None else wanted.given())
        if "turn_detection" in given:
            detection = _turn_detection(self.turn_detection, new.audio.input.turn_detection)
            if detection is not None and detection.type not in kinds:
                there = ", ".join(kinds) or "none"
                raise EventError(
                    f"turn detection {detection.type}: this server has {there}; null leaves it to the client",
                    "unsupported_parameter",
                    "session.audio.input.turn_detection.type",
                )
            config = replace(config, turn_detection=detection)
        if new.usdm.interrupt_after_ms is not None:
            config = replace(config, interrupt_after_ms=new.usdm.interrupt_after_ms)
        if new.usdm.partial_transcripts is not None:
            config = replace(config, partial_transcripts=new.usdm.partial_transcripts)
        if new.usdm.hold_at_once is not None:
            config = replace(config, hold_at_once=new.usdm.hold_at_once)
        return replace(config, reply=_reply(config.reply, new, new.usdm, voices, "session"))

    def for_response(self, new: ResponseSettings | None, voices: list[str]) -> ReplySettings:
        """Of one reply. Raises EventError as `updated` does."""
        return self.reply if new is None else _reply(self.reply, new, new.usdm, voices, "response")

    def as_dict(self, id_: str, model: str) -> dict[str, Any]:
        reply = self.reply
        detection = self.turn_detection
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": id_,
            "model": model,
            "output_modalities": [reply.modality],
            "instructions": "",
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": reply.max_output_tokens or "inf",
            "truncation": "auto",
            "audio": {
                "input": {
                    "format": _format(self.input_format),
                    "transcription": self.transcription,
                    "noise_reduction": None,
                    "turn_detection": None if detection is None else detection.as_dict(),
                },
                "output": {"format": _format(reply.output_format), "voice": reply.voice, "speed": 1.0},
            },
            "usdm": {
                "seed": reply.seed,
                "temperature": reply.temperature,
                "interrupt_after_ms": self.interrupt_after_ms,
                "partial_transcripts": self.partial_transcripts,
                "hold_at_once": self.hold_at_once,
            },
        }


def _reply(
    before: ReplySettings,
    new: SessionSettings | ResponseSettings,
    own: OwnSettings,
    voices: list[str],
    place: str,
) -> ReplySettings:
    reply, output = before, new.audio.output
    if new.output_modalities is not None:
        reply = replace(reply, modality=new.output_modalities[0])
    if output.format is not None:
        reply = replace(reply, output_format=FORMATS[output.format.type])
    if "voice" in output.given():
        if output.voice is not None and output.voice not in voices:
            raise EventError(
                f"voice {output.voice!r}: this model has {', '.join(voices) or 'none by name'}",
                "invalid_value",
                f"{place}.audio.output.voice",
            )
        reply = replace(reply, voice=output.voice)
    if new.max_output_tokens is not None:
        reply = replace(reply, max_output_tokens=None if new.max_output_tokens == "inf" else new.max_output_tokens)
    if "temperature" in own.given():
        reply = replace(reply, temperature=own.temperature)
    if own.seed is not None:
        reply = replace(reply, seed=own.seed)
    return reply


def _turn_detection(before: TurnDetection | None, new: TurnDetectionSettings | None) -> TurnDetection | None:
    """Of the same kind as before it keeps what is not given."""
    if new is None:
        return None
    base = before if before is not None and before.type == new.type else TurnDetection(new.type)
    return replace(base, **{name: value for name, value in new.given().items() if value is not None and name != "type"})


def _format(format_: AudioFormat) -> dict[str, Any]:
    rate = {"rate": format_.sample_rate} if format_.name == "audio/pcm" else {}
    return {"type": format_.name, **rate}
