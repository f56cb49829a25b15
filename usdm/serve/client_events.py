"""What a client may say: the events of the OpenAI Realtime protocol (GA names), parsed strictly.

Fields that the protocol has and this model has no use for are known here by name: what asks for nothing (null, no
tools, ...) is accepted, anything else is refused, so that nobody believes in instructions that nobody reads.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from usdm.serve.audio_formats import FORMATS, FormatName

ID_LENGTH = 512


class EventError(Exception):
    """What is refused, as the `error` event says it."""

    def __init__(self, message: str, code: str, param: str | None = None, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.message, self.code, self.param, self.kind = message, code, param, kind
        self.event_id: str | None = None  # the client's own


def _only(*neutral: Any) -> AfterValidator:
    """A field of the protocol that this model cannot follow."""

    def check(value: Any) -> Any:
        if not any(value == each and type(value) is type(each) for each in neutral):
            allowed = " or ".join(json.dumps(each) for each in neutral)
            raise ValueError(f"this model cannot do it: leave it out, or give {allowed}")
        return value

    return AfterValidator(check)


NoInstructions = Annotated[Any, _only(None, "")]
NoTools = Annotated[Any, _only(None, [])]
NoToolChoice = Annotated[Any, _only(None, "auto", "none")]
Nothing = Annotated[Any, _only(None)]
OwnSpeed = Annotated[Any, _only(None, 1, 1.0)]
Id = Annotated[str, Field(min_length=1, max_length=ID_LENGTH)]
Modality = Literal["audio", "text"]
Modalities = Annotated[list[Modality], Field(min_length=1, max_length=1)]
MaxTokens = Annotated[int, Field(ge=1)] | Literal["inf"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    def given(self) -> dict[str, Any]:
        """The fields that the client named."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class FormatSettings(_Strict):
    type: FormatName
    rate: int | None = None

    @model_validator(mode="after")
    def _own_rate(self) -> FormatSettings:
        if self.rate not in (None, own := FORMATS[self.type].sample_rate):
            raise ValueError(f"{self.type} at {self.rate} Hz: this protocol has it at {own} Hz alone, so resample")
        return self


class TurnDetectionSettings(_Strict):
    """`server_vad` listens for silence, `semantic_vad` asks the model too; null leaves the turn's end to the client."""

    type: Literal["server_vad", "semantic_vad"]
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    prefix_padding_ms: Annotated[int, Field(ge=0, le=2000)] | None = None
    silence_duration_ms: Annotated[int, Field(ge=40, le=10_000)] | None = None
    eagerness: Literal["low", "medium", "high", "auto"] | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: Nothing = None


class TranscriptionSettings(_Strict):
    """The model transcribes what it hears in any case; this says whether the client wants to know."""

    model: str | None = None
    language: str | None = None
    prompt: Annotated[Any, _only(None, "")] = None
    delay: Nothing = None


class InputSettings(_Strict):
    format: FormatSettings | None = None
    transcription: TranscriptionSettings | None = None
    turn_detection: TurnDetectionSettings | None = None
    noise_reduction: Nothing = None


class OutputSettings(_Strict):
    format: FormatSettings | None = None
    voice: str | None = None
    speed: OwnSpeed = None


class AudioSettings(_Strict):
    input: InputSettings = InputSettings()
    output: OutputSettings = OutputSettings()


class OwnSettings(_Strict):
    """What this server adds to the protocol."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    interrupt_after_ms: Annotated[int, Field(ge=0, le=5000)] | None = None
    partial_transcripts: bool | None = None
    hold_at_once: bool | None = None


class SessionSettings(_Strict):
    type: Literal["realtime"]
    audio: AudioSettings = AudioSettings()
    output_modalities: Modalities | None = None
    max_output_tokens: MaxTokens | None = None
    usdm: OwnSettings = OwnSettings()
    model: str | None = None
    instructions: NoInstructions = None
    tools: NoTools = None
    tool_choice: NoToolChoice = None
    parallel_tool_calls: bool | None = None
    prompt: Nothing = None
    reasoning: Nothing = None
    tracing: Nothing = None
    truncation: Annotated[Any, _only(None, "auto")] = None
    include: NoTools = None


class ResponseOutputSettings(_Strict):
    format: FormatSettings | None = None
    voice: str | None = None


class ResponseAudioSettings(_Strict):
    output: ResponseOutputSettings = ResponseOutputSettings()


class ResponseSettings(_Strict):
    audio: ResponseAudioSettings = ResponseAudioSettings()
    output_modalities: Modalities | None = None
    max_output_tokens: MaxTokens | None = None
    metadata: dict[str, str] | None = None
    usdm: OwnSettings = OwnSettings()
    conversation: Annotated[Any, _only(None, "auto")] = None
    input: Nothing = None
    instructions: NoInstructions = None
    tools: NoTools = None
    tool_choice: NoToolChoice = None
    parallel_tool_calls: bool | None = None
    prompt: Nothing = None
    reasoning: Nothing = None


class ContentSettings(_Strict):
    type: Literal["input_text", "input_audio", "output_text", "output_audio", "text"]
    text: str | None = None
    audio: str | None = None
    transcript: str | None = None


class ItemSettings(_Strict):
    type: Literal["message"]
    role: Literal["user", "assistant"]
    content: Annotated[list[ContentSettings], Field(min_length=1, max_length=1)]
    id: Id | None = None
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class ClientEvent(_Strict):
    event_id: Id | None = None


class UpdateSession(ClientEvent):
    type: Literal["session.update"]
    session: SessionSettings


class AppendAudio(ClientEvent):
    type: Literal["input_audio_buffer.append"]
    audio: str


class CommitAudio(ClientEvent):
    type: Literal["input_audio_buffer.commit"]


class ClearAudio(ClientEvent):
    type: Literal["input_audio_buffer.clear"]


class CreateItem(ClientEvent):
    type: Literal["conversation.item.create"]
    item: ItemSettings
    previous_item_id: Id | None = None


class RetrieveItem(ClientEvent):
    type: Literal["conversation.item.retrieve"]
    item_id: Id


class DeleteItem(ClientEvent):
    type: Literal["conversation.item.delete"]
    item_id: Id


class TruncateItem(ClientEvent):
    type: Literal["conversation.item.truncate"]
    item_id: Id
    content_index: Literal[0]
    audio_end_ms: Annotated[int, Field(ge=0)]


class CreateResponse(ClientEvent):
    type: Literal["response.create"]
    response: ResponseSettings | None = None


class CancelResponse(ClientEvent):
    type: Literal["response.cancel"]
    response_id: Id | None = None


class PlayedAudio(ClientEvent):
    """Not of the protocol: how much of an item's sound has been played, whenever the client likes to say so."""

    type: Literal["output_audio_buffer.played"]
    item_id: Id
    audio_end_ms: Annotated[int, Field(ge=0)]


EVENTS: dict[str, type[ClientEvent]] = {
    "session.update": UpdateSession,
    "input_audio_buffer.append": AppendAudio,
    "input_audio_buffer.commit": CommitAudio,
    "input_audio_buffer.clear": ClearAudio,
    "conversation.item.create": CreateItem,
    "conversation.item.retrieve": RetrieveItem,
    "conversation.item.delete": DeleteItem,
    "conversation.item.truncate": TruncateItem,
    "response.create": CreateResponse,
    "response.cancel": CancelResponse,
    "output_audio_buffer.played": PlayedAudio,
}


def parse(message: str | bytes) -> ClientEvent:
    """Raises EventError for what is none of the events above, with the client's id of it if it has one."""
    if isinstance(message, bytes):
        raise EventError("a binary frame: events are JSON in text frames, and their audio is base64", "invalid_json")
    try:
        data = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise EventError(f"not JSON: {error}", "invalid_json") from error
    if not isinstance(data, dict):
        raise EventError(f"an event is a JSON object, not {_kind(data)}", "invalid_json")
    try:
        return _known(data)
    except EventError as error:
        own = data.get("event_id")
        error.event_id = own if isinstance(own, str) and len(own) <= ID_LENGTH else None
        raise


def _known(data: dict[str, Any]) -> ClientEvent:
    name = data.get("type")
    if name is None:
        raise EventError("the event has no type", "missing_required_parameter", "type")
    if not isinstance(name, str) or name not in EVENTS:
        raise EventError(f"type {str(name)[:80]!r}: this server knows {', '.join(EVENTS)}", "invalid_value", "type")
    try:
        return EVENTS[name].model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(each) for each in first["loc"] if not str(each).startswith("literal[")) or None
        code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}.get(
            first["type"], "unsupported_parameter" if "this model cannot" in first["msg"] else "invalid_value"
        )
        raise EventError(f"{param}: {first['msg'].removeprefix('Value error, ')}", code, param) from error


def _kind(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")
