"""What all of a server's connections share, and whom it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from usdm.serve.access import has_token, is_own_name, is_own_page
from usdm.serve.engine import Engine
from usdm.serve.limits import Limits
from usdm.serve.metrics import Metrics
from usdm.serve.session import Model, Session
from usdm.serve.settings import SessionConfig


@dataclass(frozen=True, eq=False)
class Server:
    """One model, and those who talk to it."""

    engine: Engine
    model: Model
    config: SessionConfig = SessionConfig()  # of a session that has not said anything
    limits: Limits = Limits()
    token: str | None = None  # None: nobody needs one
    chain: str | None = None
    metrics: Metrics = field(default_factory=Metrics)
    sessions: set[Session] = field(default_factory=set)  # open


def refusal(server: Server, connection: HTTPConnection) -> Response | None:
    """None for whoever may come in."""
    if not has_token(connection, server.token):
        return refused(server, 401, "invalid_token", "send the server's token: Authorization: Bearer TOKEN")
    if not is_own_page(connection):
        return refused(server, 403, "foreign_page", "a page from elsewhere may not use this server")
    if not is_own_name(connection, server.token):
        return refused(server, 403, "foreign_name", "without a token this server is there for its own machine alone")
    return None


def refused(server: Server, status: int, code: str, message: str, param: str | None = None) -> Response:
    """An answer of the protocol's shape, which is counted."""
    server.metrics.refused.labels(code).inc()
    error = {"type": "invalid_request_error", "code": code, "message": message, "param": param}
    return JSONResponse({"error": error}, status)
