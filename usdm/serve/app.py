"""The server's routes: one WebSocket for conversations, two for single files, its model's name, and two for those who
run it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from usdm.serve.connection import converse
from usdm.serve.files import speech, transcriptions
from usdm.serve.server import Server, refusal


def build_app(server: Server) -> Starlette:
    """The engine runs as long as the app does."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with server.engine:
            yield

    return Starlette(routes=routes(server), lifespan=lifespan)


def routes(server: Server) -> list[BaseRoute]:
    """For an app of one's own, which must run the engine."""
    return [
        WebSocketRoute("/v1/realtime", partial(converse, server)),
        Route("/v1/audio/speech", partial(_with_access, server, speech), methods=["POST"]),
        Route("/v1/audio/transcriptions", partial(_with_access, server, transcriptions), methods=["POST"]),
        Route("/v1/models", partial(_with_access, server, models)),
        Route("/health", partial(health, server)),
        Route("/metrics", partial(_with_access, server, metrics)),
    ]


async def health(server: Server, request: Request) -> Response:
    """Whether it can answer; for load balancers, so nobody needs a token."""
    alive = server.engine.is_alive
    said = {"status": "ok" if alive else "failed", "model": server.model.name, "sessions": len(server.sessions)}
    return JSONResponse(said, 200 if alive else 503)


async def models(server: Server, request: Request) -> Response:
    """The one that answers, as clients list them."""
    model = {"id": server.model.name, "object": "model", "created": 0, "owned_by": "usdm"}
    return JSONResponse({"object": "list", "data": [model]})


async def metrics(server: Server, request: Request) -> Response:
    server.metrics.written.set(server.engine.num_written)
    return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _with_access(
    server: Server, route: Callable[[Server, Request], Awaitable[Response]], request: Request
) -> Response:
    return refusal(server, request) or await route(server, request)
