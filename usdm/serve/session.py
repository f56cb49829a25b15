"""One client's session: events in, events out, and what the engine does in between. No socket, no thread, no clock."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from usdm.chain import Question
from usdm.serve.audio_formats import PCM16, from_base64, to_base64
from usdm.serve.client_events import (
    AppendAudio,
    CancelResponse,
    ClearAudio,
    ClientEvent,
    CommitAudio,
    CreateItem,
    CreateResponse,
    DeleteItem,
    EventError,
    PlayedAudio,
    RetrieveItem,
    TruncateItem,
    UpdateSession,
    parse,
)
from usdm.serve.conversation import Conversation, Item, turns
from usdm.serve.engine_events import (
    EngineEvent,
    Fault,
    HeardText,
    PartialTranscript,
    ReplyEnded,
    ReplySound,
    ReplyText,
    SoundHeld,
    SoundResumed,
    Transcribed,
    TranscriptionFailed,
    TurnHeard,
    TurnRefused,
    TurnStarted,
    TurnStopped,
)
from usdm.serve.limits import Limits
from usdm.serve.metrics import Metrics
from usdm.serve.playback import Playback
from usdm.serve.replies import ReplyOrder
from usdm.serve.response import Event, Response
from usdm.serve.settings import ReplySettings, SessionConfig, TurnDetection
from usdm.turns import TurnDetector
from usdm.types import InputError, Turn


class ModelLine(Protocol):
    """What a session asks of the engine; see `usdm.serve.line.Line`."""

    def listen_to(self, sample_rate: int, detector: Callable[[], TurnDetector] | None, holds: bool) -> None: ...

    def hear(self, samples: Tensor) -> None: ...

    def remember(self, history: tuple[Turn, ...]) -> None: ...

    def expect(self, settings: ReplySettings | None) -> None: ...

    def commit(self, item_id: str) -> None: ...

    def clear(self) -> None: ...

    def hear_whole(self, item_id: str, samples: Tensor, sample_rate: int) -> None: ...

    def transcribe(self, item_id: str, units: Tensor, history: tuple[Turn, ...]) -> None: ...

    def reply(self, order: ReplyOrder) -> None: ...

    def cancel(self, reply_id: str) -> None: ...

    def find_heard(self, item_id: str, heard_ms: int, text: str, units: Tensor) -> None: ...


class Outbox(Protocol):
    """Where events for the client go."""

    def put(self, event: Event) -> None: ...

    def drop_sound(self, response_id: str) -> None:
        """Of a response that was cut off, what was not sent yet."""
        ...


@dataclass(frozen=True)
class Model:
    """What a session must know of the model that it talks to."""

    name: str
    voices: list[str]
    detectors: Mapping[str, Callable[[TurnDetection, int], Callable[[], TurnDetector]]]  # by type of turn detection
    check_text: Callable[[str], None]  # raises InputError for words that the model cannot read


class Session:
    """Everything about one client but the sockets: `receive` its messages, `follow` the engine's events."""

    def __init__(
        self,
        line: ModelLine,
        outbox: Outbox,
        model: Model,
        config: SessionConfig,
        limits: Limits,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """`clock`: seconds."""
        self.id = _new_id("sess")
        self._line, self._outbox, self._model, self._limits = line, outbox, model, limits
        self._metrics, self._clock = metrics, clock
        self._config = config
        self._conversation_id = _new_id("conv")
        self._conversation = Conversation(limits.items)
        self._buffered = 0  # samples that were appended and wait for a commit, if the client commits
        self._speaking: str | None = None  # the item of a turn that is being spoken
        self._commits: dict[str, bool] = {}  # items on their way: whether they are to be answered
        self._places: dict[str, str | None] = {}  # of those, where the client wants them
        self._asked: set[str] = set()  # items whose transcripts were asked for
        self._cutting: set[str] = set()  # items whose heard words were asked for
        self._wanted: list[tuple[ReplySettings, dict[str, str] | None]] = []  # responses that wait
        self._response: Response | None = None
        self._playback: Playback | None = None
        self._stopped_at: float | None = None  # when the turn ended that is being answered
        self._handlers: dict[type, Callable[[Any], None]] = {
            UpdateSession: self._update,
            AppendAudio: self._append,
            CommitAudio: self._commit_by_client,
            ClearAudio: self._clear,
            CreateItem: self._create_item,
            RetrieveItem: self._retrieve_item,
            DeleteItem: self._delete_item,
            TruncateItem: self._truncate_item,
            CreateResponse: self._create_response,
            CancelResponse: self._cancel_response,
            PlayedAudio: self._played,
            TurnStarted: self._turn_started,
            SoundHeld: self._sound_held,
            SoundResumed: self._sound_resumed,
            TurnStopped: self._turn_stopped,
            TurnHeard: self._turn_heard,
            TurnRefused: self._turn_refused,
            Transcribed: self._transcribed,
            TranscriptionFailed: self._transcription_failed,
            PartialTranscript: self._partial_transcript,
            HeardText: self._heard_text,
            ReplyText: self._reply_text,
            ReplySound: self._reply_sound,
            ReplyEnded: self._reply_ended,
            Fault: self._fault,
        }
        self._listen(config)
        self._expect(config)
        self._send("session.created", session=self._config.as_dict(self.id, model.name))

    def receive(self, message: str | bytes) -> None:
        """One message of the client. What is wrong with it is answered with an `error` event."""
        event: ClientEvent | None = None
        try:
            event = parse(message)
            self._handlers[type(event)](event)
        except EventError as error:
            self._refuse(error, error.event_id or (None if event is None else event.event_id))
        except InputError as error:
            param = "audio" if isinstance(event, AppendAudio) else None
            refused = EventError(str(error), "invalid_value", param)
            self._refuse(refused, None if event is None else event.event_id)
        self._go_on()

    def follow(self, event: EngineEvent) -> None:
        """What the engine has done."""
        self._handlers[type(event)](event)
        self._go_on()

    # The client's events

    def _update(self, event: UpdateSession) -> None:
        new = self._config.updated(event.session, self._model.voices, list(self._model.detectors))
        listening = ("input_format", "turn_detection", "interrupt_after_ms", "hold_at_once")
        changes = any(getattr(new, name) != getattr(self._config, name) for name in listening)
        if new.input_format != self._config.input_format and (self._buffered or self._speaking):
            raise EventError(
                "the input's format cannot change within a turn: commit or clear the buffer first",
                "invalid_value",
                "session.audio.input.format",
            )
        if changes:
            self._listen(new)
        self._expect(new)
        self._config = new
        self._send("session.updated", session=self._config.as_dict(self.id, self._model.name))

    def _append(self, event: AppendAudio) -> None:
        samples = self._config.input_format.decode(from_base64(event.audio))
        if self._config.turn_detection is None:
            longest = self._limits.turn_seconds * self._config.input_format.sample_rate
            if self._buffered + len(samples) > longest:
                raise EventError(
                    f"a turn has {self._limits.turn_seconds:g} s at most: commit or clear the buffer",
                    "input_audio_buffer_full",
                    "audio",
                )
            self._buffered += len(samples)
        if len(samples):
            self._line.hear(samples)

    def _commit_by_client(self, event: CommitAudio) -> None:
        if self._config.turn_detection is None and not self._buffered:
            raise EventError("the buffer is empty: append audio first", "input_audio_buffer_commit_empty")
        self._commit(answer=False)

    def _clear(self, event: ClearAudio) -> None:
        self._buffered, self._speaking = 0, None
        self._line.clear()
        self._send("input_audio_buffer.cleared")

    def _create_item(self, event: CreateItem) -> None:
        settings = event.item
        (content,) = settings.content
        id_ = settings.id or _new_id("item")
        if settings.role == "user" and content.type == "input_audio":
            if content.audio is None:
                raise EventError("input_audio without audio", "missing_required_parameter", "item.content.0.audio")
            format_ = self._config.input_format
            samples = format_.decode(from_base64(content.audio))
            if len(samples) > self._limits.turn_seconds * format_.sample_rate:
                most = f"{self._limits.turn_seconds:g} s"
                raise EventError(f"a turn has {most} at most: cut it", "invalid_value", "item.content.0.audio")
            self._conversation.check_place(id_, event.previous_item_id)
            self._commits[id_], self._places[id_] = False, event.previous_item_id
            self._line.hear_whole(id_, samples, format_.sample_rate)
            return
        allowed = ("input_text", "text") if settings.role == "user" else ("output_text", "text")
        if content.type not in allowed:
            raise EventError(
                f"{content.type} of role {settings.role}: give {allowed[0]}"
                + (" or input_audio" if settings.role == "user" else ""),
                "invalid_value",
                "item.content.0.type",
            )
        if content.text is None or not content.text.strip():
            raise EventError("there are no words in it", "invalid_value", "item.content.0.text")
        self._model.check_text(content.text)
        item = Item(id_, "user" if settings.role == "user" else "agent", spoken=False, text=content.text)
        self._add(item, event.previous_item_id)

    def _retrieve_item(self, event: RetrieveItem) -> None:
        item = self._conversation.get(event.item_id)
        self._send("conversation.item.retrieved", item=item.as_dict(to_base64(item.wire_sound())))

    def _delete_item(self, event: DeleteItem) -> None:
        self._check_at_rest(self._conversation.get(event.item_id))
        self._conversation.delete(event.item_id)
        self._remember()
        self._send("conversation.item.deleted", item_id=event.item_id)

    def _truncate_item(self, event: TruncateItem) -> None:
        item = self._conversation.get(event.item_id)
        if item.role != "agent" or not item.spoken:
            raise EventError("only what the model has spoken can be cut", "invalid_value", "item_id")
        response = self._response if self._response and self._response.item_id == item.id else None
        made = item.sound_ms if response is None else response.sound_ms
        if event.audio_end_ms > made:
            raise EventError(f"the item has {made} ms of sound", "invalid_value", "audio_end_ms")
        if self._playback is not None and self._playback.item_id == item.id:
            self._playback = None
        if response is not None:
            response.cut_ms = event.audio_end_ms
        else:
            self._cut(item, event.audio_end_ms)

    def _create_response(self, event: CreateResponse) -> None:
        if self._response is not None or self._wanted:
            raise EventError(
                "a response is being made: wait for response.done, or cancel it",
                "conversation_already_has_active_response",
            )
        settings = self._config.for_response(event.response, self._model.voices)
        if not self._commits:
            self._conversation.question()
        self._wanted.append((settings, None if event.response is None else event.response.metadata))

    def _cancel_response(self, event: CancelResponse) -> None:
        response = self._response
        if response is None or event.response_id not in (None, response.id):
            raise EventError("there is no such response to cancel", "response_cancel_not_active", "response_id")
        self._interrupt("client_cancelled")

    def _played(self, event: PlayedAudio) -> None:
        self._conversation.get(event.item_id)
        if self._playback is not None and self._playback.item_id == event.item_id:
            self._playback.acknowledge(event.audio_end_ms)

    # The engine's events: input

    def _turn_started(self, event: TurnStarted) -> None:
        detection = self._config.turn_detection
        if detection is None:  # the client has taken over since
            return
        self._speaking = _new_id("item")
        self._send("input_audio_buffer.speech_started", audio_start_ms=event.start_ms, item_id=self._speaking)
        if detection.interrupt_response:
            self._interrupt("turn_detected")

    def _sound_held(self, event: SoundHeld) -> None:
        if self._playback is not None:
            self._playback.hold()
        self._send("output_audio_buffer.held")

    def _sound_resumed(self, event: SoundResumed) -> None:
        if self._playback is not None:
            self._playback.resume()
        self._send("output_audio_buffer.resumed")

    def _turn_stopped(self, event: TurnStopped) -> None:
        detection = self._config.turn_detection
        if detection is None or self._speaking is None:
            return
        self._send("input_audio_buffer.speech_stopped", audio_end_ms=event.end_ms, item_id=self._speaking)
        self._stopped_at = self._clock()
        self._commit(answer=detection.create_response)

    def _partial_transcript(self, event: PartialTranscript) -> None:
        if self._speaking is not None and self._config.partial_transcripts:
            self._send("input_audio_buffer.partial_transcript", item_id=self._speaking, transcript=event.text)

    def _turn_heard(self, event: TurnHeard) -> None:
        answer, place = self._commits.pop(event.item_id), self._places.pop(event.item_id, None)
        item = Item(
            event.item_id,
            "user",
            True,
            units=event.units,
            sound=event.sound,
            sound_rate=event.sound_rate,
            sound_ms=event.sound_ms,
        )
        self._metrics.turns.inc()
        try:
            self._add(item, place, committed=True)
        except EventError as error:
            self._refuse(error, None)
            return
        if answer:
            self._wanted.append((self._config.reply, None))

    def _turn_refused(self, event: TurnRefused) -> None:
        self._commits.pop(event.item_id)
        self._refuse(EventError(event.message, "input_audio_buffer_commit_empty"), None)

    def _transcribed(self, event: Transcribed) -> None:
        self._set_transcript(event.item_id, event.text)

    def _transcription_failed(self, event: TranscriptionFailed) -> None:
        if not self._conversation.has(event.item_id):
            return
        self._conversation.change(event.item_id, text="")  # nothing waits for it
        self._send(
            "conversation.item.input_audio_transcription.failed",
            item_id=event.item_id,
            content_index=0,
            error={"type": "server_error", "code": "transcription_failed", "message": event.message, "param": None},
        )

    def _heard_text(self, event: HeardText) -> None:
        self._cutting.discard(event.item_id)
        if not self._conversation.has(event.item_id):
            return
        self._conversation.change(event.item_id, heard_ms=event.heard_ms, heard_text=event.text)
        self._remember()
        self._send("conversation.item.truncated", item_id=event.item_id, content_index=0, audio_end_ms=event.heard_ms)

    # The engine's events: replies

    def _reply_text(self, event: ReplyText) -> None:
        response = self._response
        if response is None or response.id != event.reply_id:
            return
        if event.role == "user":
            self._set_transcript(response.question_id, event.text)
            return
        self._conversation.change(response.item_id, text=event.text)
        if response.cancelled is None:
            kind = "output_text" if response.settings.modality == "text" else "output_audio_transcript"
            self._send_part(response, f"response.{kind}.delta", delta=event.text)

    def _reply_sound(self, event: ReplySound) -> None:
        response = self._response
        if response is None or response.id != event.reply_id or response.cancelled is not None:
            return
        if not response.sound and self._stopped_at is not None:
            self._metrics.first_sound.observe(self._clock() - self._stopped_at)
            self._stopped_at = None
        response.sound.extend(event.sound)
        if self._playback is None or self._playback.item_id != response.item_id:
            self._playback = Playback(response.item_id, self._clock)
        self._playback.send(1000 * len(event.sound) / PCM16.bytes_per_sample / PCM16.sample_rate)
        self._send_part(response, "response.output_audio.delta", delta=to_base64(event.wire))

    def _reply_ended(self, event: ReplyEnded) -> None:
        response = self._response
        if response is None or response.id != event.reply_id:
            return
        self._response = None
        status, details = response.status(event)
        item = self._conversation.change(
            response.item_id,
            status="completed" if status == "completed" else "incomplete",
            units=event.units,
            sound=bytes(response.sound),
            sound_ms=response.sound_ms,
        )
        if event.failure is not None:
            self._metrics.failures.inc()
        if item.text is None:
            item = self._conversation.change(item.id, text="")
        self._send_ends(response, item)
        self._send("conversation.item.done", previous_item_id=self._conversation.before(item.id), item=item.as_dict())
        self._send(
            "response.done", response=response.as_dict(self._conversation_id, status, details, item, event.usage)
        )
        self._metrics.responses.labels(status).inc()
        self._remember()
        if response.cut_ms is not None:
            self._cut(item, response.cut_ms)

    def _fault(self, event: Fault) -> None:
        kind = "server_error" if event.is_defect else "invalid_request_error"
        self._refuse(EventError(event.message, "processing_failed", kind=kind), None)

    # What follows

    def _go_on(self) -> None:
        """Begin the next response, once all is known that it depends on."""
        if not self._wanted or self._response is not None or self._commits or self._cutting:
            return
        try:
            question = self._conversation.question()
            unknown = [item for item in self._conversation.unknown() if item.id != question.id]
            for item in unknown:
                self._transcribe(item)
            if unknown or (question.text is None and question.id in self._asked):
                return
            settings, metadata = self._wanted.pop(0)
        except EventError as error:
            self._wanted.clear()
            self._refuse(error, None)
            return
        self._begin(question, settings, metadata)

    def _begin(self, question: Item, settings: ReplySettings, metadata: dict[str, str] | None) -> None:
        spoken = settings.modality == "audio"
        item = Item(_new_id("item"), "agent", spoken, status="in_progress")
        history = turns(self._conversation.before_question(question))
        response = Response(_new_id("resp"), item.id, question.id, settings, metadata)
        try:
            previous = self._conversation.add(item)
        except EventError as error:
            self._refuse(error, None)
            return
        self._response = response
        self._send(
            "response.created", response=response.as_dict(self._conversation_id, "in_progress", None, None, None)
        )
        self._send("response.output_item.added", response_id=response.id, output_index=0, item=item.as_dict())
        self._send("conversation.item.added", previous_item_id=previous, item=item.as_dict())
        part = {"type": "audio", "transcript": ""} if spoken else {"type": "text", "text": ""}
        self._send_part(response, "response.content_part.added", part=part)
        self._line.reply(
            ReplyOrder(response.id, Question(units=question.units, text=question.text, history=history), settings)
        )

    def _interrupt(self, why: str) -> None:
        """Stop what is being made and said; what was not heard is cut off."""
        heard = None if self._playback is None else round(self._playback.played_ms)
        response = self._response
        if response is not None and response.cancelled is None:
            response.cancelled = why
            if response.cut_ms is None and response.settings.modality == "audio":
                is_played = self._playback is not None and self._playback.item_id == response.item_id
                response.cut_ms = heard if is_played else 0
            self._outbox.drop_sound(response.id)
            self._line.cancel(response.id)
        elif response is None and self._playback is not None and heard is not None:
            if heard < int(self._playback.sent_ms) and self._conversation.has(self._playback.item_id):
                self._cut(self._conversation.get(self._playback.item_id), heard)
            self._line.cancel("")
        self._playback = None

    def _cut(self, item: Item, heard_ms: int) -> None:
        self._cutting.add(item.id)
        self._metrics.interruptions.inc()
        units = item.units if item.units is not None else torch.zeros(0, dtype=torch.int64)
        self._line.find_heard(item.id, heard_ms, item.text or "", units)

    def _commit(self, answer: bool) -> None:
        id_, self._speaking, self._buffered = self._speaking or _new_id("item"), None, 0
        self._commits[id_] = answer
        if self._config.turn_detection is None:
            self._stopped_at = self._clock()
        self._line.commit(id_)

    def _add(self, item: Item, after: str | None, committed: bool = False) -> None:
        previous = self._conversation.add(item, after)
        if committed:
            self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        self._send("conversation.item.added", previous_item_id=previous, item=item.as_dict())
        self._send("conversation.item.done", previous_item_id=previous, item=item.as_dict())
        self._remember()

    def _set_transcript(self, item_id: str, text: str) -> None:
        self._asked.discard(item_id)
        if not self._conversation.has(item_id) or self._conversation.get(item_id).text is not None:
            return
        item = self._conversation.change(item_id, text=text)
        self._remember()
        if self._config.transcription is None:
            return
        name = "conversation.item.input_audio_transcription"
        self._send(f"{name}.delta", item_id=item_id, content_index=0, delta=text)
        usage = {"type": "duration", "seconds": item.sound_ms / 1000}
        self._send(f"{name}.completed", item_id=item_id, content_index=0, transcript=text, usage=usage)

    def _transcribe(self, item: Item) -> None:
        if item.id not in self._asked and item.units is not None:
            self._asked.add(item.id)
            self._line.transcribe(item.id, item.units, turns(self._conversation.before_question(item)))

    def _listen(self, config: SessionConfig) -> None:
        detection = config.turn_detection
        rate = config.input_format.sample_rate
        detector = None
        if detection is not None:
            detector = self._model.detectors[detection.type](detection, config.interrupt_after_ms)
        self._line.listen_to(rate, detector, config.hold_at_once)
        self._buffered, self._speaking = 0, None

    def _expect(self, config: SessionConfig) -> None:
        detection = config.turn_detection
        self._line.expect(config.reply if detection is not None and detection.create_response else None)

    def _remember(self) -> None:
        self._line.remember(turns(self._conversation.all()))

    def _check_at_rest(self, item: Item) -> None:
        if self._response is not None and item.id in (self._response.item_id, self._response.question_id):
            raise EventError("the item belongs to a response that is being made: cancel it first", "invalid_value")

    def _send(self, type_: str, **fields: Any) -> None:
        self._outbox.put({"event_id": _new_id("event"), "type": type_, **fields})

    def _send_part(self, response: Response, type_: str, **fields: Any) -> None:
        place = {"response_id": response.id, "item_id": response.item_id, "output_index": 0, "content_index": 0}
        self._send(type_, **place, **fields)

    def _send_ends(self, response: Response, item: Item) -> None:
        text = item.text or ""
        if item.spoken:
            self._send_part(response, "response.output_audio.done")
            self._send_part(response, "response.output_audio_transcript.done", transcript=text)
            part = {"type": "audio", "transcript": text}
        else:
            self._send_part(response, "response.output_text.done", text=text)
            part = {"type": "text", "text": text}
        self._send_part(response, "response.content_part.done", part=part)
        self._send("response.output_item.done", response_id=response.id, output_index=0, item=item.as_dict())

    def _refuse(self, error: EventError, event_id: str | None) -> None:
        self._metrics.errors.labels(error.code).inc()
        said = {"type": error.kind, "code": error.code, "message": error.message, "param": error.param}
        self._send("error", error={**said, "event_id": event_id})


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"
