"""A server in a thread of this process, and a client that talks to it over a real socket."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from websockets.sync.client import ClientConnection, connect

from usdm.audio import resample
from usdm.serve.app import build_app
from usdm.serve.audio_formats import FORMATS, PCM16
from usdm.serve.server import Server
from usdm.serve.serving import http_server, listen_on
from usdm.types import Waveform

WAIT = 20.0  # seconds for an event


@contextmanager
def served(server: Server) -> Iterator[int]:
    """Its port."""
    with listen_on("127.0.0.1", 0, server.token) as listening:
        http = http_server(build_app(server), server.limits)
        thread = threading.Thread(target=http.run, kwargs={"sockets": [listening]})
        thread.start()
        until(lambda: http.started)
        try:
            yield listening.getsockname()[1]
        finally:
            http.should_exit = True
            thread.join(WAIT)
            assert not thread.is_alive()


def until(condition: Any, seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Talker:
    """A client's side of one session."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    def say(self, type_: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": type_, **fields}))

    def hear(self, *types: str) -> dict[str, Any]:
        """The next event of these types; an error fails unless it is one of them."""
        while True:
            event = json.loads(self.socket.recv(WAIT))
            self.events.append(event)
            if event["type"] in types:
                return event
            assert event["type"] != "error", event

    def speak(self, waveform: Waveform, silence: float = 0.0, name: str = "audio/pcm", block: float = 0.1) -> None:
        """As fast as the server takes it."""
        format_ = FORMATS[name]
        samples = resample(waveform.samples, waveform.sample_rate, format_.sample_rate)
        samples = torch.cat([samples, torch.zeros(round(silence * format_.sample_rate))])
        for part in samples.split(round(block * format_.sample_rate)):
            self.say("input_audio_buffer.append", audio=base64.b64encode(format_.encode(part)).decode())

    def type(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        self.say("conversation.item.create", item={"type": "message", "role": "user", "content": content})

    def set(self, **session: Any) -> None:
        self.say("session.update", session={"type": "realtime", **session})
        self.hear("session.updated")

    def sound(self, name: str = "audio/pcm") -> Tensor:
        """All that was heard."""
        deltas = [event["delta"] for event in self.events if event["type"] == "response.output_audio.delta"]
        return FORMATS[name].decode(b"".join(map(base64.b64decode, deltas)))

    def of_type(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type_]


@contextmanager
def talking(port: int, **options: Any) -> Iterator[Talker]:
    """A session without turn detection of the server's, unless it is set."""
    options.setdefault("proxy", None)
    with connect(f"ws://127.0.0.1:{port}/v1/realtime?model=tiny", max_size=None, compression=None, **options) as socket:
        talker = Talker(socket)
        talker.hear("session.created")
        yield talker


def said(event: dict[str, Any]) -> str:
    """The words of a `response.done`."""
    (part,) = event["response"]["output"][0]["content"]
    text: str = part.get("transcript", part.get("text"))
    return text


def seconds(sound: Tensor, name: str = "audio/pcm") -> float:
    return len(sound) / FORMATS[name].sample_rate


__all__ = ["PCM16", "Talker", "said", "seconds", "served", "talking", "until"]
