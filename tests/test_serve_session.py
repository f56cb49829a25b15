"""One session of the server without sockets, threads or a model: events in, events out."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from usdm.serve.audio_formats import FORMATS, PCM16
from usdm.serve.engine_events import (
    HeardText,
    PartialTranscript,
    ReplyEnded,
    ReplySound,
    ReplyText,
    SoundHeld,
    SoundResumed,
    Transcribed,
    TurnHeard,
    TurnStarted,
    TurnStopped,
    Usage,
)
from usdm.serve.limits import Limits
from usdm.serve.metrics import Metrics
from usdm.serve.replies import ReplyOrder
from usdm.serve.session import Model, Session
from usdm.serve.settings import SessionConfig, TurnDetection
from usdm.turns import PushToTalk, TurnDetector
from usdm.types import InputError, Turn

UNITS = torch.arange(10)


class Line:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: self.asked.append((name, *values))

    def last(self, name: str) -> Any:
        return next(values for own, *values in reversed(self.asked) if own == name)

    def names(self) -> list[str]:
        return [name for name, *_ in self.asked]


class Client:
    """A session with all around it."""

    def __init__(self, detection: TurnDetection | None = None, limits: Limits = Limits()) -> None:  # noqa: B008
        self.sent: list[dict[str, Any]] = []
        self.dropped: list[str] = []
        self.line = Line()
        self.now = 100.0
        model = Model("tiny", ["rms", "slt"], {"server_vad": lambda *_: lambda: PushToTalk()}, _check_text)
        config = SessionConfig(turn_detection=detection)
        self.session = Session(self.line, self, model, config, limits, Metrics(), lambda: self.now)  # type: ignore[arg-type]

    def put(self, event: dict[str, Any]) -> None:
        self.sent.append(json.loads(json.dumps(event)))

    def drop_sound(self, response_id: str) -> None:
        self.dropped.append(response_id)

    def say(self, type_: str, **fields: Any) -> list[dict[str, Any]]:
        """Events that this brings."""
        return self.tell(lambda: self.session.receive(json.dumps({"type": type_, **fields})))

    def hear(self, event: Any) -> list[dict[str, Any]]:
        return self.tell(lambda: self.session.follow(event))

    def tell(self, work: Callable[[], None]) -> list[dict[str, Any]]:
        before = len(self.sent)
        work()
        return self.sent[before:]

    def error(self, type_: str, **fields: Any) -> dict[str, Any]:
        (event,) = self.say(type_, **fields)
        assert event["type"] == "error"
        return event["error"]

    def turn(self, words: str | None = None) -> str:
        """A turn that is heard, and answered if the session does so by itself: its item."""
        self.session.follow(TurnStarted(200))
        self.session.follow(TurnStopped(900))
        (id_,) = self.line.last("commit")
        self.session.follow(TurnHeard(id_, UNITS, b"\0\0" * 16_000, 16_000, 1000))
        return id_

    def order(self) -> ReplyOrder:
        (order,) = self.line.last("reply")
        return order

    def answer(self, user: str, agent: str, seconds: float) -> ReplyOrder:
        """The reply that is being made, up to its end."""
        order = self.order()
        self.session.follow(ReplyText(order.reply_id, "user", user))
        self.session.follow(ReplyText(order.reply_id, "agent", agent))
        sound = b"\0\0" * round(24_000 * seconds)
        self.session.follow(ReplySound(order.reply_id, sound, sound))
        self.session.follow(ReplyEnded(order.reply_id, UNITS, Usage(5, 10, 12, 7, 10)))
        return order


def _check_text(text: str) -> None:
    if "\u2603" in text:
        raise InputError(f"{text!r}: no ids for it")


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def pcm(seconds: float) -> str:
    return base64.b64encode(b"\0\1" * round(24_000 * seconds)).decode()


# A turn and its reply


def test_a_turn_is_answered_in_the_protocols_order() -> None:
    client = Client(TurnDetection())
    assert types(client.sent) == ["session.created"]
    client.say("session.update", session={"type": "realtime", "audio": {"input": {"transcription": {}}}})
    (started,) = client.hear(TurnStarted(212))
    assert (started["type"], started["audio_start_ms"]) == ("input_audio_buffer.speech_started", 212)
    (stopped,) = client.hear(TurnStopped(900))
    assert stopped["item_id"] == started["item_id"] == client.line.last("commit")[0]
    begun = client.hear(TurnHeard(started["item_id"], UNITS, b"\0\0" * 16_000, 16_000, 1000))
    assert types(begun) == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
    ]
    order = client.order()
    assert torch.equal(order.question.units, UNITS) and order.question.history == ()  # type: ignore[arg-type]
    before = len(client.sent)
    client.answer("how are you", "fine thanks", 0.5)
    ended = client.sent[before:]
    assert types(ended) == [
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    done = ended[-1]["response"]
    assert done["status"] == "completed" and done["output"][0]["content"][0]["transcript"] == "fine thanks"
    assert done["usage"] == {
        "total_tokens": 32,
        "input_tokens": 15,
        "output_tokens": 17,
        "input_token_details": {"text_tokens": 5, "audio_tokens": 10, "cached_tokens": 12},
        "output_token_details": {"text_tokens": 7, "audio_tokens": 10},
    }
    assert len({event["event_id"] for event in client.sent}) == len(client.sent)
    client.now += 5
    client.turn()
    assert client.order().question.history == (Turn("user", "how are you"), Turn("agent", "fine thanks"))


def test_what_the_client_commits_is_answered_when_it_asks() -> None:
    client = Client()
    client.say("input_audio_buffer.append", audio=pcm(0.5))
    assert client.say("input_audio_buffer.commit") == client.say("response.create") == []  # until it is heard
    (id_,) = client.line.last("commit")
    begun = client.hear(TurnHeard(id_, UNITS, b"", 16_000, 500))
    assert types(begun)[:4] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    assert client.error("response.create")["code"] == "conversation_already_has_active_response"


def test_settings_of_one_reply() -> None:
    client = Client()
    user = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
    assert types(client.say("conversation.item.create", item=user)) == [
        "conversation.item.added",
        "conversation.item.done",
    ]
    own = {"seed": 3, "temperature": 0.5}
    client.say("response.create", response={"output_modalities": ["text"], "usdm": own, "metadata": {"a": "b"}})
    settings = client.order().settings
    assert (settings.modality, settings.seed, settings.temperature) == ("text", 3, 0.5)
    client.hear(ReplyText(client.order().reply_id, "agent", "hi"))
    ended = client.hear(ReplyEnded(client.order().reply_id, UNITS[:0], Usage()))
    assert types(ended)[0] == "response.output_text.done" and ended[-1]["response"]["metadata"] == {"a": "b"}
    assert ended[-1]["response"]["output"][0]["content"] == [{"type": "output_text", "text": "hi"}]


def test_history_waits_for_transcripts_that_nobody_needed_before() -> None:
    client = Client(TurnDetection(create_response=False))
    first, second = client.turn(), client.turn()
    assert "reply" not in client.line.names()
    client.say("response.create")
    assert client.line.last("transcribe")[0] == first and "reply" not in client.line.names()
    client.hear(Transcribed(first, "one"))
    assert client.order().question.history == (Turn("user", "one"),)
    assert second != first


# Barge-in


def interrupted(heard_after: float, acknowledged: int | None = None) -> tuple[Client, list[dict[str, Any]]]:
    """A reply of two seconds, interrupted so long after its sound was sent."""
    client = Client(TurnDetection())
    client.turn()
    order = client.answer("how are you", "i am fine thanks", 2.0)
    if acknowledged is not None:
        item_id = client.sent[-1]["response"]["output"][0]["id"]
        client.now += heard_after - 0.1
        client.say("output_audio_buffer.played", item_id=item_id, audio_end_ms=acknowledged)
        client.now += 0.1
    else:
        client.now += heard_after
    events = client.hear(TurnStarted(3000))
    assert order.reply_id
    return client, events


def test_an_interruption_cuts_the_history_to_what_was_played() -> None:
    client, events = interrupted(0.7)
    assert types(events) == ["input_audio_buffer.speech_started"]
    item_id, heard_ms, text, units = client.line.last("find_heard")
    assert (heard_ms, text) == (700, "i am fine thanks") and torch.equal(units, UNITS)
    (truncated,) = client.hear(HeardText(item_id, 700, "i am"))
    assert (truncated["type"], truncated["audio_end_ms"]) == ("conversation.item.truncated", 700)
    assert client.line.last("remember") == [(Turn("user", "how are you"), Turn("agent", "i am"))]
    (retrieved,) = client.say("conversation.item.retrieve", item_id=item_id)
    (part,) = retrieved["item"]["content"]
    assert part["transcript"] == "i am"
    cut = {"heard_ms": 700, "made_ms": 2000, "unheard_transcript": "fine thanks"}
    assert part["usdm"] == {**cut, "units": UNITS.tolist()}
    assert len(base64.b64decode(part["audio"])) == 96_000  # the whole record


def test_sound_that_is_held_is_not_played() -> None:
    client = Client(TurnDetection())
    client.say("session.update", session={"type": "realtime", "usdm": {"hold_at_once": True}})
    assert client.line.last("listen_to")[2] is True
    client.turn()
    client.answer("how are you", "i am fine thanks", 2.0)
    client.now += 0.3
    assert types(client.hear(SoundHeld())) == ["output_audio_buffer.held"]
    client.now += 5.0
    assert types(client.hear(SoundResumed())) == ["output_audio_buffer.resumed"]
    client.now += 0.2
    client.hear(SoundHeld())
    client.now += 0.4
    client.hear(TurnStarted(9000))
    assert client.line.last("find_heard")[1] == 500


def test_what_the_client_says_was_played_goes_before_what_it_should_have_played() -> None:
    client, _ = interrupted(1.5, acknowledged=300)
    assert client.line.last("find_heard")[1] == 400


def test_a_reply_that_was_played_to_its_end_is_not_cut() -> None:
    client, _ = interrupted(2.1)
    assert "find_heard" not in client.line.names()


def test_the_clients_own_word_about_a_cut_is_the_last() -> None:
    client, _ = interrupted(0.7)
    item_id = client.line.last("find_heard")[0]
    client.hear(HeardText(item_id, 700, "i am"))
    assert client.say("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=400) == []
    assert client.line.last("find_heard")[:2] == [item_id, 400]
    client.hear(HeardText(item_id, 400, "i"))
    assert client.line.last("remember")[0][-1] == Turn("agent", "i")
    error = client.error("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=2001)
    assert error["param"] == "audio_end_ms"


def test_an_interruption_ends_what_is_being_made() -> None:
    client = Client(TurnDetection())
    client.turn()
    order = client.order()
    client.hear(ReplyText(order.reply_id, "user", "hello"))
    client.hear(ReplyText(order.reply_id, "agent", "i am fine"))
    client.hear(ReplySound(order.reply_id, b"\0\0" * 24_000, b"\0\0" * 24_000))
    client.now += 0.25
    client.hear(TurnStarted(2000))
    assert client.line.last("cancel") == client.dropped == [order.reply_id]
    assert client.hear(ReplySound(order.reply_id, b"\0\0", b"\0\0")) == []  # made before it was told
    ended = client.hear(ReplyEnded(order.reply_id, UNITS, Usage(), cancelled=True))
    done = ended[-1]["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
    assert done["output"][0]["status"] == "incomplete"
    assert client.line.last("find_heard")[1] == 250
    client.hear(TurnStopped(3000))
    client.hear(TurnHeard(client.line.last("commit")[0], UNITS, b"", 16_000, 500))
    assert len([name for name in client.line.names() if name == "reply"]) == 1  # waits for the cut
    client.hear(HeardText(done["output"][0]["id"], 250, "i am"))
    assert client.order().question.history == (Turn("user", "hello"), Turn("agent", "i am"))


def test_who_does_not_want_to_be_interrupted_is_not() -> None:
    client = Client(TurnDetection(interrupt_response=False))
    client.turn()
    client.hear(TurnStarted(3000))
    assert "cancel" not in client.line.names()


def test_the_client_cancels() -> None:
    client = Client(TurnDetection())
    assert client.error("response.cancel")["code"] == "response_cancel_not_active"
    client.turn()
    assert client.say("response.cancel") == []
    ended = client.hear(ReplyEnded(client.order().reply_id, UNITS[:0], Usage(), cancelled=True))
    assert ended[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}


def test_a_reply_that_fails_says_why() -> None:
    client = Client(TurnDetection())
    client.turn()
    ended = client.hear(ReplyEnded(client.order().reply_id, UNITS[:0], Usage(), failure="no", is_defect=True))
    done = ended[-1]["response"]
    assert done["status"] == "failed" and done["status_details"]["error"]["type"] == "server_error"


# What is wrong


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("{", "invalid_json", None),
        ("[1]", "invalid_json", None),
        ('"' + "[" * 3, "invalid_json", None),
        (b"\x00\x01", "invalid_json", None),
        ("[" * 100_000, "invalid_json", None),
        ('{"event_id": "e"}', "missing_required_parameter", "type"),
        ('{"type": "session.explode", "event_id": "e"}', "invalid_value", "type"),
        ('{"type": 7, "event_id": "e"}', "invalid_value", "type"),
        ('{"type": "input_audio_buffer.append", "event_id": "e"}', "missing_required_parameter", "audio"),
        ('{"type": "input_audio_buffer.append", "audio": 3, "event_id": "e"}', "invalid_value", "audio"),
        ('{"type": "input_audio_buffer.append", "audio": "%%", "event_id": "e"}', "invalid_value", "audio"),
        (
            '{"type": "input_audio_buffer.append", "audio": "AAAA", "event_id": "e"}',
            "invalid_value",
            "audio",
        ),  # 3 bytes
        ('{"type": "input_audio_buffer.append", "audio": "", "loud": 1, "event_id": "e"}', "unknown_parameter", "loud"),
        ('{"type": "input_audio_buffer.commit", "event_id": "e"}', "input_audio_buffer_commit_empty", None),
        ('{"type": "response.create", "event_id": "e"}', "nothing_to_answer", None),
        ('{"type": "conversation.item.delete", "item_id": "x", "event_id": "e"}', "item_not_found", "item_id"),
    ],
)
def test_an_event_that_is_wrong_is_refused(message: str | bytes, code: str, param: str | None) -> None:
    client = Client()
    (event,) = client.tell(lambda: client.session.receive(message))
    error = event["error"]
    assert (event["type"], error["type"], error["code"], error["param"]) == (
        "error",
        "invalid_request_error",
        code,
        param,
    )
    assert error["message"] and error["event_id"] == ("e" if b"event_id" in _bytes(message) else None)
    assert types(client.say("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]  # it goes on


def _bytes(message: str | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.encode()


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({"type": "realtime", "instructions": "be kind"}, "unsupported_parameter", "session.instructions"),
        ({"type": "realtime", "tools": [{"type": "function"}]}, "unsupported_parameter", "session.tools"),
        ({"type": "transcription"}, "invalid_value", "session.type"),
        ({}, "missing_required_parameter", "session.type"),
        ({"type": "realtime", "voice": "rms"}, "unknown_parameter", "session.voice"),
        (
            {"type": "realtime", "audio": {"output": {"voice": "alloy"}}},
            "invalid_value",
            "session.audio.output.voice",
        ),
        (
            {"type": "realtime", "audio": {"output": {"speed": 1.2}}},
            "unsupported_parameter",
            "session.audio.output.speed",
        ),
        (
            {"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}},
            "invalid_value",
            "session.audio.input.format",
        ),
        (
            {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}},
            "unsupported_parameter",
            "session.audio.input.turn_detection.type",
        ),
        (
            {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 7.0}}}},
            "invalid_value",
            "session.audio.input.turn_detection.threshold",
        ),
        ({"type": "realtime", "usdm": {"seed": -1}}, "invalid_value", "session.usdm.seed"),
    ],
)
def test_settings_that_cannot_be_are_refused(session: dict[str, Any], code: str, param: str) -> None:
    client = Client()
    error = client.error("session.update", session=session, event_id="mine")
    assert (error["code"], error["param"], error["event_id"]) == (code, param, "mine")


def test_settings_that_ask_for_nothing_are_accepted() -> None:
    client = Client()
    asked = {"type": "realtime", "instructions": "", "tools": [], "tool_choice": "auto", "model": "gpt-realtime"}
    audio = {"input": {"noise_reduction": None, "turn_detection": {"type": "server_vad", "silence_duration_ms": 200}}}
    (updated,) = client.say("session.update", session={**asked, "audio": audio})
    detection = updated["session"]["audio"]["input"]["turn_detection"]
    assert (detection["silence_duration_ms"], detection["prefix_padding_ms"]) == (200, 300)
    audio = {"input": {"turn_detection": {"type": "server_vad", "prefix_padding_ms": 100}}, "output": {"voice": "slt"}}
    (updated,) = client.say("session.update", session={"type": "realtime", "audio": audio})
    detection = updated["session"]["audio"]["input"]["turn_detection"]
    assert (detection["silence_duration_ms"], detection["prefix_padding_ms"]) == (200, 100)
    assert updated["session"]["audio"]["output"]["voice"] == "slt"
    (updated,) = client.say(
        "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    )
    assert updated["session"]["audio"]["input"]["turn_detection"] is None


def test_the_format_does_not_change_within_a_turn() -> None:
    client = Client()
    client.say("input_audio_buffer.append", audio=pcm(0.1))
    other = {"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcmu"}}}}
    assert client.error("session.update", session=other)["param"] == "session.audio.input.format"
    client.say("input_audio_buffer.clear")
    (updated,) = client.say("session.update", session=other)
    assert updated["session"]["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    assert client.line.last("listen_to")[0] == 8000
    client.say("input_audio_buffer.append", audio=base64.b64encode(bytes(80)).decode())
    assert client.line.last("hear")[0].shape == (80,)


def test_a_turn_and_a_conversation_have_an_end() -> None:
    client = Client(limits=Limits(turn_seconds=1.0, items=2))
    client.say("input_audio_buffer.append", audio=pcm(0.9))
    assert client.error("input_audio_buffer.append", audio=pcm(0.2))["code"] == "input_audio_buffer_full"
    user = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
    for _ in range(2):
        client.say("conversation.item.create", item=user)
    assert client.error("conversation.item.create", item=user)["code"] == "too_many_items"
    long = {**user, "content": [{"type": "input_audio", "audio": pcm(1.1)}]}
    assert client.error("conversation.item.create", item=long)["param"] == "item.content.0.audio"


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "be kind"}]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "message", "role": "user", "content": []},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "  "}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "\u2603"}]},
        {"type": "message", "role": "user", "content": [{"type": "output_text", "text": "hello"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "audio": "AAAA"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_audio"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
    ],
)
def test_items_that_the_model_cannot_read_are_refused(item: dict[str, Any]) -> None:
    assert Client().error("conversation.item.create", item=item)["message"]


def test_items_have_places_and_ids_of_their_own() -> None:
    client = Client()
    for id_, role, text, after in (
        ("b", "assistant", "two", None),
        ("a", "user", "one", "root"),
        ("d", "user", "four", None),
        ("c", "assistant", "three", "b"),
    ):
        kind = "input_text" if role == "user" else "output_text"
        item = {"type": "message", "role": role, "id": id_, "content": [{"type": kind, "text": text}]}
        client.say("conversation.item.create", item=item, **({} if after is None else {"previous_item_id": after}))
    assert client.error("conversation.item.create", item=item)["param"] == "item.id"
    (deleted,) = client.say("conversation.item.delete", item_id="c")
    assert deleted["type"] == "conversation.item.deleted"
    client.say("response.create")
    question = client.order().question
    assert question.text == "four" and question.history == (Turn("user", "one"), Turn("agent", "two"))
    assert client.error("conversation.item.delete", item_id="d")["code"] == "invalid_value"  # it is being answered


# Sound on the wire


def mu_law(sample: int) -> float:
    """ITU-T G.711, table 2a: what a code stands for."""
    code = ~sample & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return (-magnitude if code & 0x80 else magnitude) / 32768


def test_sound_on_the_wire_is_what_the_standards_say() -> None:
    assert PCM16.decode(b"\x00\x80\xff\x7f\x01\x00").tolist() == [-1.0, 32767 / 32768, 1 / 32768]
    assert PCM16.encode(torch.tensor([-2.0, 2.0, 0.5])) == np.array([-32768, 32767, 16384], "<i2").tobytes()
    codes = bytes(range(256))
    assert FORMATS["audio/pcmu"].decode(codes).tolist() == [mu_law(code) for code in codes]
    assert FORMATS["audio/pcma"].decode(bytes([0xD5, 0x55])).tolist() == [8 / 32768, -8 / 32768]
    tone = 0.5 * torch.sin(torch.arange(800) * 2 * math.pi * 440 / 8000)
    for name in ("audio/pcmu", "audio/pcma"):
        again: Tensor = FORMATS[name].decode(FORMATS[name].encode(tone))
        assert len(again) == 800 and (again - tone).square().mean() < 1e-3 * tone.square().mean()


def test_detectors_are_made_for_the_clients_settings() -> None:
    made: list[TurnDetection] = []

    def factory(detection: TurnDetection, interrupt_ms: int) -> Callable[[], TurnDetector]:
        made.append(detection)
        assert interrupt_ms == 600
        return lambda: PushToTalk()

    client = Client()
    client.session._model.detectors["server_vad"] = factory  # type: ignore[index]
    audio = {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 120}}}
    client.say("session.update", session={"type": "realtime", "audio": audio, "usdm": {"interrupt_after_ms": 600}})
    assert [detection.silence_duration_ms for detection in made] == [120]


def test_what_was_understood_in_a_pause_is_told_to_those_who_ask() -> None:
    client = Client(TurnDetection())
    partial = PartialTranscript("a table")
    (started,) = client.hear(TurnStarted(0))
    assert client.hear(partial) == []
    client.say("session.update", session={"type": "realtime", "usdm": {"partial_transcripts": True}})
    (told,) = client.hear(partial)
    assert told["type"] == "input_audio_buffer.partial_transcript" and told["transcript"] == "a table"
    assert told["item_id"] == started["item_id"]
    client.hear(TurnStopped(900))
    assert client.hear(partial) == []
