"""One client's WebSocket: what comes in, what goes out, and when it cannot go on."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from usdm.serve.engine_events import EngineEvent
from usdm.serve.line import Line
from usdm.serve.response import Event
from usdm.serve.server import Server, refusal, refused
from usdm.serve.session import Session

logger = logging.getLogger(__name__)

SOUND = "response.output_audio.delta"
POLL = 0.02  # seconds
CLOSING = 1.0  # seconds that a client has to take its farewell
GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR = 1001, 1008, 1011  # close codes of RFC 6455


class SendQueue:
    """Events for one client, in order; for the event loop's thread.

    Nothing is sent here: whoever puts an event never waits for a client that does not read.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._events: deque[tuple[str, str | None]] = deque()  # as JSON; of sound its response
        self._size = 0
        self._changed = asyncio.Event()

    @property
    def is_too_full(self) -> bool:
        return self._size > self._most_bytes

    def put(self, event: Event) -> None:
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        self._events.append((text, event["response_id"] if event["type"] == SOUND else None))
        self._size += len(text)
        self._changed.set()

    def drop_sound(self, response_id: str) -> None:
        """See `usdm.serve.session.Outbox`."""
        self._events = deque(each for each in self._events if each[1] != response_id)
        self._size = sum(len(text) for text, _ in self._events)

    async def get(self) -> str:
        """The next one."""
        while not self._events:
            self._changed.clear()
            await self._changed.wait()
        text, _ = self._events.popleft()
        self._size -= len(text)
        return text


async def converse(server: Server, websocket: WebSocket) -> None:
    """One client's session, from its connection to its end."""
    refused_with = refusal(server, websocket)
    if refused_with is None and len(server.sessions) >= server.limits.sessions:
        refused_with = refused(server, 503, "too_many_sessions", "all sessions are taken: try again later")
    if refused_with is not None:
        await websocket.send_denial_response(refused_with)
        return
    connection = Connection(server, websocket)
    server.sessions.add(connection.session)
    server.metrics.sessions.set(len(server.sessions))
    try:
        await connection.run()
    finally:
        connection.line.close()
        server.sessions.discard(connection.session)
        server.metrics.sessions.set(len(server.sessions))


class Connection:
    """A client's WebSocket, its session, and its line to the engine."""

    def __init__(self, server: Server, websocket: WebSocket) -> None:
        self._server, self._websocket = server, websocket
        self._queue = SendQueue(server.limits.unread_bytes)
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[tuple[int, str]] = self._loop.create_future()  # why it cannot go on
        rate = server.config.input_format.sample_rate
        self.line = Line(server.engine, self._tell, server.chain, rate, server.limits.turn_seconds)
        self.session = Session(
            self.line, self._queue, server.model, server.config, server.limits, server.metrics, time.monotonic
        )

    async def run(self) -> None:
        """Until the client goes, or cannot be served any longer."""
        offered = self._websocket.scope.get("subprotocols", [])
        await self._websocket.accept("realtime" if "realtime" in offered else None)
        sending, receiving = asyncio.create_task(self._send()), asyncio.create_task(self._receive())
        try:
            ends: list[asyncio.Future[Any]] = [sending, receiving, self._broken]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            receiving.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)
        if self._broken.done():
            with suppress(Exception):  # it may be gone, or not read
                async with asyncio.timeout(CLOSING):
                    await self._websocket.close(*self._broken.result())

    async def _send(self) -> None:
        with suppress(WebSocketDisconnect):
            while True:
                await self._websocket.send_text(await self._queue.get())

    async def _receive(self) -> None:
        limits = self._server.limits
        while True:
            try:
                async with asyncio.timeout(limits.idle_seconds):
                    message = await self._websocket.receive()
            except TimeoutError:
                self._break(GOING_AWAY, f"nothing was sent for {limits.idle_seconds:g} s")
                return
            if message["type"] == "websocket.disconnect":
                return
            received: str | bytes = message["bytes"] if message.get("text") is None else message["text"]
            self._guarded(partial(self.session.receive, received))
            await asyncio.sleep(0)  # others have their turn, however fast this one sends
            while self.line.is_behind(limits.waiting_seconds):
                await asyncio.sleep(POLL)

    def _tell(self, event: EngineEvent) -> None:
        """In the engine's thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._guarded, partial(self.session.follow, event))

    def _guarded(self, work: Callable[[], None]) -> None:
        """A defect ends this session, and no other."""
        if self._broken.done():
            return
        try:
            work()
        except Exception:
            logger.exception("a session failed")
            self._break(INTERNAL_ERROR, "something went wrong in the server; its log has the details")
        if self._queue.is_too_full:
            self._server.metrics.refused.labels("does_not_read").inc()
            self._break(POLICY_VIOLATION, "too much was sent that is not read")

    def _break(self, code: int, reason: str) -> None:
        if not self._broken.done():
            self._broken.set_result((code, reason))
