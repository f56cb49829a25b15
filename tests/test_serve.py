"""The server over real sockets, with the embedded model: conversations, interruptions, bad input."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import socket
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import soundfile
import torch
from openai import AsyncOpenAI, OpenAI
from served import Talker, said, seconds, served, talking, until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from usdm.audio import read_audio
from usdm.chain import LanguageModelChain, Question, SpokenDialogPipeline
from usdm.cli.main import main
from usdm.lm import TokenStream
from usdm.serve.engine import Engine
from usdm.serve.engine_events import (
    EngineEvent,
    PartialTranscript,
    ReplyEnded,
    ReplySound,
    ReplyText,
    TurnHeard,
    TurnStarted,
    TurnStopped,
)
from usdm.serve.heard import by_model, heard_text
from usdm.serve.limits import Limits
from usdm.serve.line import Line
from usdm.serve.model import make_server
from usdm.serve.replies import LiveReply, ReplyOrder
from usdm.serve.server import Server
from usdm.serve.settings import ReplySettings
from usdm.turns import PushToTalk, Silence
from usdm.types import SpokenReply, Turn, Waveform

QUESTION = Path(__file__).resolve().parents[1] / "usdm" / "assets" / "question.wav"
SMALL = Limits(sessions=6, idle_seconds=60.0, unread_bytes=400_000)


@pytest.fixture(scope="module")
def pipeline() -> SpokenDialogPipeline:
    return SpokenDialogPipeline.from_pretrained("tiny")


@pytest.fixture(scope="module")
def question() -> Waveform:
    return read_audio(QUESTION)


@pytest.fixture(scope="module")
def expected(pipeline: SpokenDialogPipeline, question: Waveform) -> SpokenReply:
    """What the model answers to the question by itself."""
    *_, reply = pipeline.stream(question.samples, question.sample_rate)
    assert isinstance(reply, SpokenReply) and reply.user_text and reply.agent_text
    return reply


@pytest.fixture(scope="module")
def server(pipeline: SpokenDialogPipeline) -> Server:
    return make_server(pipeline, PushToTalk(), capacity=3, limits=SMALL)


@pytest.fixture(scope="module")
def port(server: Server) -> Iterator[int]:
    with served(server) as port:
        yield port


@pytest.fixture(autouse=True)
def _nothing_goes_on(server: Server) -> Iterator[None]:
    """After each test nobody is connected and nothing is written."""
    yield
    until(lambda: not server.sessions and not server.engine.num_written)


# Conversations


def test_a_question_gets_the_reply_that_the_model_gives_alone(
    port: int, question: Waveform, expected: SpokenReply
) -> None:
    with talking(port) as talker:
        talker.set(audio={"input": {"transcription": {"model": "tiny"}}})
        talker.speak(question)
        talker.say("input_audio_buffer.commit")
        talker.say("response.create")
        done = talker.hear("response.done")
    (transcript,) = talker.of_type("conversation.item.input_audio_transcription.completed")
    assert transcript["transcript"] == expected.user_text
    assert done["response"]["status"] == "completed" and said(done) == expected.agent_text
    assert expected.waveform is not None and expected.agent_units is not None
    assert done["response"]["usage"]["output_token_details"]["audio_tokens"] == len(expected.agent_units)
    assert done["response"]["usage"]["input_token_details"]["cached_tokens"] > 0  # read while it was spoken
    assert seconds(talker.sound()) == pytest.approx(len(expected.waveform) / expected.sample_rate, abs=0.01)
    assert talker.sound().abs().max() > 0.05


def test_the_servers_own_ear_finds_the_turn(
    pipeline: SpokenDialogPipeline, port: int, question: Waveform, expected: SpokenReply
) -> None:
    with talking(port) as talker:
        talker.set(audio={"input": {"turn_detection": {"type": "server_vad"}, "format": {"type": "audio/pcmu"}}})
        talker.speak(question, silence=1.0, name="audio/pcmu")
        started = talker.hear("input_audio_buffer.speech_started")
        stopped = talker.hear("input_audio_buffer.speech_stopped")
        done = talker.hear("response.done")
    assert 0 <= started["audio_start_ms"] < 500
    assert stopped["audio_end_ms"] == pytest.approx(1000 * question.seconds + 450, abs=250)
    assert done["response"]["status"] == "completed" and said(done)
    assert talker.of_type("input_audio_buffer.committed")[0]["item_id"] == started["item_id"]
    usage = done["response"]["usage"]["input_token_details"]  # all was read in the pause, before it was over
    assert usage["cached_tokens"] >= usage["audio_tokens"] > 80


def test_a_pause_within_a_turn_loses_nothing(port: int, question: Waveform, expected: SpokenReply) -> None:
    """What was made ready in the pause is thrown away when the person goes on."""
    half = len(question.samples) // 2
    pause = torch.zeros(round(0.3 * question.sample_rate))
    broken = Waveform(torch.cat([question.samples[:half], pause, question.samples[half:]]), question.sample_rate)
    with talking(port) as talker:
        detection = {"type": "server_vad", "silence_duration_ms": 500}
        talker.set(audio={"input": {"turn_detection": detection, "transcription": {}}})
        talker.speak(broken, silence=1.0)
        heard = talker.hear("conversation.item.input_audio_transcription.completed")
        talker.hear("response.done")
    assert heard["usage"]["seconds"] > broken.seconds - 0.5
    assert heard["transcript"].split()[-2:] == (expected.user_text or "").split()[-2:]


def test_the_official_client(port: int, expected: SpokenReply, pipeline: SpokenDialogPipeline) -> None:
    """Its connection, its events' types and its two calls for single files."""

    async def talk() -> tuple[str, bytes, str]:
        client = AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1")
        sound, words, status = b"", "", ""
        async with client.realtime.connect(model="tiny") as connection:
            await connection.session.update(session={"type": "realtime", "audio": {"output": {"voice": "slt"}}})
            content = [{"type": "input_text", "text": "i need a table for two"}]
            await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})  # type: ignore[typeddict-item]
            await connection.response.create()
            async for event in connection:
                if event.type == "response.output_audio.delta":
                    sound += base64.b64decode(event.delta)
                elif event.type == "response.output_audio_transcript.done":
                    words = event.transcript
                elif event.type == "response.done":
                    status = event.response.status or ""
                    break
                assert event.type != "error"
        return words, sound, status

    words, sound, status = asyncio.run(talk())
    assert words and len(sound) > 20_000 and status == "completed"
    client = OpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1")
    health = httpx2.get(f"http://127.0.0.1:{port}/health").json()
    assert [model.id for model in client.models.list()] == [health["model"]]
    spoken = client.audio.speech.create(
        input="What time is it? I am fine.", model="tiny", voice="rms", response_format="wav"
    ).read()
    samples, rate = soundfile.read(io.BytesIO(spoken))
    assert rate == 24_000 and 0.8 < len(samples) / rate < 6 and abs(samples).max() > 0.05
    own = pipeline.respond(text="hello", reply="i need a table for two", voice="rms")
    table = client.audio.speech.create(
        input="i need a table for two", model="tiny", voice="rms", response_format="wav"
    ).read()
    samples, rate = soundfile.read(io.BytesIO(table))
    assert own.waveform is not None
    assert len(samples) / rate == pytest.approx(len(own.waveform) / own.sample_rate, abs=0.1)  # these words, no others
    with QUESTION.open("rb") as file:
        assert client.audio.transcriptions.create(file=file, model="tiny").text == expected.user_text


def test_sessions_at_once_are_answered_each_in_its_own_way(port: int, pipeline: SpokenDialogPipeline) -> None:
    """More of them than rows on the batch, with seeds and histories of their own."""
    asked = ["i need a table for two", "what time is it", "hello", "thank you", "i want to book a train"]
    with ExitStack() as stack:
        talkers = [stack.enter_context(talking(port)) for _ in asked]
        for seed, (talker, text) in enumerate(zip(talkers, asked, strict=True)):
            talker.set(output_modalities=["text"], usdm={"seed": seed, "temperature": 0.7})
            talker.type(text)
            talker.say("response.create")
        first = [said(talker.hear("response.done")) for talker in talkers]
        for talker in talkers:
            talker.type("yes please")
            talker.say("response.create", response={"usdm": {"temperature": 0.0}})
        second = [said(talker.hear("response.done")) for talker in talkers]
    for text, one, two in zip(asked, first, second, strict=True):
        history = [Turn("user", text), Turn("agent", one)]
        alone = pipeline.respond(text="yes please", history=history, speak=False)
        assert two == alone.agent_text
    assert len(set(first)) > 1


def test_history_is_cut_to_what_was_heard(port: int, pipeline: SpokenDialogPipeline) -> None:
    with talking(port) as talker:
        talker.type("i need a table for two")
        talker.say("response.create")
        whole = talker.hear("response.done")
        item_id = whole["response"]["output"][0]["id"]
        played = round(500 * seconds(talker.sound()))
        talker.say("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=played)
        assert talker.hear("conversation.item.truncated")["audio_end_ms"] == played
        talker.say("conversation.item.retrieve", item_id=item_id)
        (part,) = talker.hear("conversation.item.retrieved")["item"]["content"]
        talker.type("yes please")
        talker.say("response.create", response={"output_modalities": ["text"]})
        again = talker.hear("response.done")
    words, heard = said(whole).split(), part["transcript"].split()
    assert words[: len(heard)] == heard and 0 < len(heard) < len(words)
    assert part["usdm"]["unheard_transcript"].split() == words[len(heard) :]
    history = [Turn("user", "i need a table for two"), Turn("agent", part["transcript"])]
    assert said(again) == pipeline.respond(text="yes please", history=history, speak=False).agent_text


def test_a_reply_is_begun_in_a_pause_and_told_when_it_is_asked_for(
    pipeline: SpokenDialogPipeline, question: Waveform
) -> None:
    told: list[Any] = []
    rate, settings = question.sample_rate, ReplySettings()

    def of(reply_id: str) -> list[tuple[Any, ...]]:
        events = [event for event in told if getattr(event, "reply_id", None) == reply_id]
        kinds = {ReplyText: "text", ReplySound: "wire"}
        return [(type(event), getattr(event, kinds.get(type(event), "truncated"))) for event in events]

    def first(kind: type) -> Any:
        return next((event for event in told if isinstance(event, kind)), None)

    with Engine(pipeline, 2) as engine:
        line = Line(engine, told.append, None, rate, 60.0)
        line.listen_to(rate, lambda: Silence(silence_ms=600).detector(pipeline.parts.units, Path()))
        line.expect(settings)
        line.hear(question.samples)
        line.hear(torch.zeros(rate // 4))
        until(lambda: line._early is not None and not engine.num_written)
        early = line._early
        assert early is not None and early._events
        assert [type(event) for event in told] == [TurnStarted, PartialTranscript]
        line.hear(question.samples[: rate // 2])  # the person goes on
        until(lambda: line._early is None)
        line.hear(torch.zeros(rate))
        until(lambda: first(TurnStopped))
        line.commit("item")
        until(lambda: first(TurnHeard))
        asked = Question(units=first(TurnHeard).units)
        assert line._early is not None and line._early.is_for(ReplyOrder("early", asked, settings))
        line.reply(ReplyOrder("early", asked, settings))
        until(lambda: first(ReplyEnded))
        assert first(PartialTranscript).text == pipeline.respond(question.samples, rate, speak=False).user_text
        line.reply(ReplyOrder("again", asked, settings))
        until(lambda: getattr(told[-1], "reply_id", None) == "again" and isinstance(told[-1], ReplyEnded))
        line.close()
    assert of("early") == of("again") and len(of("early")) > 3 and of("") == []


def test_the_words_that_were_heard_are_a_beginning(pipeline: SpokenDialogPipeline, expected: SpokenReply) -> None:
    chain = pipeline.chain()
    assert isinstance(chain, LanguageModelChain) and expected.agent_text and expected.agent_units is not None
    text, units = expected.agent_text, expected.agent_units
    words = text.split()
    counts = []
    for num_heard in (0, len(units) // 4, len(units) // 2, len(units) - 8, len(units)):
        heard = heard_text(chain, TokenStream(pipeline.parts.llm), text, units, num_heard).split()
        assert words[: len(heard)] == heard
        counts.append(len(heard))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == len(words)
    # The model's share in it: of the whole reply's units the whole text is the likeliest transcript.
    by_itself = by_model(chain, TokenStream(pipeline.parts.llm), words, units)
    assert int(by_itself.argmax()) == len(words)


def test_a_cough_does_not_stop_a_reply(port: int, question: Waveform) -> None:
    """A tenth of a second of speech while the reply is played, then silence to its end."""
    cough = Waveform(question.samples[8000:9600], question.sample_rate)
    with talking(port) as talker:
        talker.set(audio={"input": {"turn_detection": {"type": "server_vad"}}})
        talker.speak(question, silence=1.0)
        talker.hear("response.done")
        talker.speak(cough, silence=1.0)
        talker.say("input_audio_buffer.clear")
        talker.hear("input_audio_buffer.cleared")
    assert len(talker.of_type("input_audio_buffer.speech_started")) == 1


def test_what_is_cancelled_does_not_go_on(port: int, server: Server) -> None:
    with talking(port) as talker:
        talker.type("tell me all that you know about trains")
        talker.say("response.create")
        talker.hear("response.created")
        talker.say("response.cancel")
        done = talker.hear("response.done")
        assert done["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
        until(lambda: not server.engine.num_written)
        talker.say("conversation.item.delete", item_id=done["response"]["output"][0]["id"])
        talker.say("response.create")
        assert talker.hear("response.done")["response"]["status"] == "completed"


# What goes wrong


def is_well(port: int) -> bool:
    """Whether somebody else is still answered."""
    with talking(port) as talker:
        talker.type("hello")
        talker.say("response.create", response={"output_modalities": ["text"]})
        return talker.hear("response.done")["response"]["status"] == "completed"


def closed(talker: Talker) -> int:
    """The code that the server closes with."""
    with pytest.raises(ConnectionClosed) as stop:
        while True:
            talker.socket.recv(30)
    assert stop.value.rcvd is not None
    return stop.value.rcvd.code


def test_a_message_too_large_ends_its_session_alone(port: int) -> None:
    with talking(port) as other, talking(port) as talker:
        with pytest.raises(ConnectionClosed):
            for _ in range(200):
                talker.socket.send("x" * 1_000_001)
            talker.socket.recv(30)
        assert talker.socket.protocol.close_rcvd is None or talker.socket.protocol.close_rcvd.code == 1009
        other.type("hello")
        other.hear("conversation.item.done")
    assert is_well(port)


def test_wrong_frames_are_answered_and_the_session_goes_on(port: int, question: Waveform) -> None:
    with talking(port) as talker:
        for wrong in ("{", b"\x00\x01", json.dumps({"type": "nothing"}), json.dumps([])):
            talker.socket.send(wrong)
            assert talker.hear("error")["error"]["type"] == "invalid_request_error"
        noise = Waveform(torch.zeros(16_000), 16_000)
        talker.speak(noise)
        talker.say("input_audio_buffer.commit")
        assert talker.hear("error")["error"]["code"] == "input_audio_buffer_commit_empty"
        talker.type("hello")
        talker.say("response.create")
        assert said(talker.hear("response.done"))


def test_a_client_that_does_not_read_is_let_go(port: int, server: Server) -> None:
    with talking(port, max_queue=1, close_timeout=1) as talker:
        (session,) = server.sessions
        gone = weakref.ref(session)
        del session
        big = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a " * 20_000}]}
        talker.say("conversation.item.create", item={**big, "id": "big"})
        for _ in range(1000):  # 40 MB, more than the buffers on the way
            with suppress(ConnectionClosed):
                talker.say("conversation.item.retrieve", item_id="big")
        until(lambda: not server.sessions)
        assert is_well(port)
    gc.collect()
    until(lambda: gc.collect() >= 0 and gone() is None)


def test_a_client_that_vanishes_leaves_nothing_behind(port: int, server: Server, question: Waveform) -> None:
    with talking(port) as talker:
        talker.speak(question)
        talker.say("input_audio_buffer.commit")
        talker.say("response.create")
        talker.hear("response.created")
        session = next(iter(server.sessions))
        gone = weakref.ref(session)
        del session
        talker.socket.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: not server.sessions and not server.engine.num_written)
    until(lambda: gc.collect() >= 0 and gone() is None)


def test_what_is_asked_of_a_closed_line_is_not_done(port: int, server: Server) -> None:
    """As a session asks that is told how its last reply went after its client has gone."""
    told: list[EngineEvent] = []
    line = Line(server.engine, told.append, server.chain, 24_000, 5.0)
    gone = weakref.ref(line._ear)
    line.close()
    until(lambda: gone() is None)
    line.remember(())
    line.clear()
    line.cancel("none")
    line.commit("none")
    assert told == [] and not server.engine.num_jobs(line)


def test_more_connections_than_there_are_sessions(port: int, server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(SMALL.sessions):
            stack.enter_context(talking(port))
        for _ in range(30):
            with pytest.raises(InvalidStatus) as refused, talking(port):
                pass
            assert refused.value.response.status_code == 503
    until(lambda: not server.sessions)
    assert is_well(port)


def test_one_that_is_silent_is_let_go(pipeline: SpokenDialogPipeline) -> None:
    with served(make_server(pipeline, Silence(), limits=Limits(idle_seconds=0.3))) as port, talking(port) as talker:
        assert closed(talker) == 1001


def test_a_defect_is_told_to_those_whom_it_concerns(
    port: int, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One reply's own first, then that of a step of all."""
    take = LiveReply.take

    def fails(self: LiveReply, progress: Any) -> None:
        if self.order.settings.seed == 13:
            raise RuntimeError("a defect")
        take(self, progress)

    with talking(port) as one, talking(port) as two:
        with monkeypatch.context() as patch:
            patch.setattr(LiveReply, "take", fails)
            for talker, seed in ((one, 13), (two, 0)):
                talker.type("hello")
                talker.say("response.create", response={"usdm": {"seed": seed}})
            failed = one.hear("response.done")["response"]
            assert failed["status"] == "failed" and failed["status_details"]["error"]["type"] == "server_error"
            assert two.hear("response.done")["response"]["status"] == "completed"
        with monkeypatch.context() as patch:
            patch.setattr(server.engine._batch, "_forward", lambda reads: 1 / 0)
            two.type("hello")
            two.say("response.create")
            assert two.hear("response.done")["response"]["status"] == "failed"
        two.type("hello")
        two.say("response.create")
        assert two.hear("response.done")["response"]["status"] == "completed"
    assert "a defect" in caplog.text and "ZeroDivisionError" in caplog.text


# Who may come in


def test_a_token_is_asked_for(pipeline: SpokenDialogPipeline) -> None:
    with served(make_server(pipeline, PushToTalk(), token="right")) as port:
        address = f"http://127.0.0.1:{port}"
        for token in ("", "wrong", "righ", "rightt"):
            headers = {"Authorization": f"Bearer {token}"}
            with pytest.raises(InvalidStatus) as refused, talking(port, additional_headers=headers):
                pass
            assert refused.value.response.status_code == 401
            assert httpx2.get(f"{address}/metrics", headers={"Authorization": token}).status_code == 401
        with talking(port, additional_headers={"Authorization": "Bearer right"}):
            pass
        with talking(port, subprotocols=["realtime", "openai-insecure-api-key.right"]) as browser:
            assert browser.socket.subprotocol == "realtime"
        assert httpx2.get(f"{address}/health").json()["status"] == "ok"
        metrics = httpx2.get(f"{address}/metrics", headers={"Authorization": "Bearer right"}).text
        assert 'usdm_refused_total{why="invalid_token"} 8.0' in metrics


def test_a_page_from_elsewhere_is_refused(port: int) -> None:
    with pytest.raises(InvalidStatus) as refused, talking(port, origin="http://elsewhere.example"):
        pass
    assert refused.value.response.status_code == 403
    with talking(port, origin=f"http://127.0.0.1:{port}"):
        pass
    address = f"http://127.0.0.1:{port}/v1/audio/speech"
    answer = httpx2.post(address, headers={"Host": "rebound.example"}, json={"input": "hello"})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "foreign_name"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"{}", 400, "input"),
        (b'{"input": "..."}', 400, "input"),
        (b'{"input": "hello", "voice": "alloy"}', 400, "voice"),
        (b'{"input": "hello", "response_format": "aac"}', 400, "response_format"),
        (b'{"input": "' + b"a" * 5000 + b'"}', 400, "input"),
        (b'{"input": "' + b"a" * 1_000_001 + b'"}', 413, None),
    ],
)
def test_requests_for_speech_that_are_wrong(port: int, body: bytes, status: int, param: str | None) -> None:
    answer = httpx2.post(f"http://127.0.0.1:{port}/v1/audio/speech", content=body)
    assert answer.status_code == status and answer.json()["error"]["param"] == param


def test_files_that_are_no_recording(port: int) -> None:
    address = f"http://127.0.0.1:{port}/v1/audio/transcriptions"
    assert httpx2.post(address, files={"file": b"no sound"}).json()["error"]["param"] == "file"
    assert httpx2.post(address, data={"model": "tiny"}).json()["error"]["code"] == "missing_required_parameter"
    long = io.BytesIO()
    soundfile.write(long, torch.zeros(61 * 8000).numpy(), 8000, format="WAV")
    assert "longer" in httpx2.post(address, files={"file": long.getvalue()}).json()["error"]["message"]


def test_the_verb_refuses_to_be_open_to_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("USDM_TOKEN", raising=False)
    assert main(["serve", "host=0.0.0.0", "port=0"]) == 2
    assert "USDM_TOKEN" in capsys.readouterr().err
    assert main(["serve", "limits.sessions=0"]) == 2
    assert "limits.sessions=0" in capsys.readouterr().err
