"""A server on a port."""

from __future__ import annotations

import logging
import socket

import uvicorn
from starlette.applications import Starlette

from usdm.serve.access import check_exposure, check_port
from usdm.serve.limits import Limits
from usdm.types import InputError

MORE_CONNECTIONS = 32  # beside sessions: single requests, health, metrics
PING = 20.0  # seconds between two, and until a client that does not answer counts as gone


def listen_on(host: str, port: int, token: str | None) -> socket.socket:
    """Raises InputError for a port that is none or taken, and for one that others could use without a token."""
    check_exposure(host, token)
    check_port(port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise InputError(f"port={port}: cannot be served on {host} ({error}); choose another port") from error
    return listening


def http_server(app: Starlette, limits: Limits) -> uvicorn.Server:
    """Run it with the socket of `listen_on`; `should_exit` ends it."""
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_max_size=limits.message_bytes,
        ws_ping_interval=PING,
        ws_ping_timeout=PING,
        ws_per_message_deflate=False,  # sound does not shrink, and a small message must not become a large one
        limit_concurrency=limits.sessions + MORE_CONNECTIONS,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def _is_news(record: logging.LogRecord) -> bool:
    """uvicorn takes a WebSocket that was refused with an answer for one that was forgotten, and logs it as an error."""
    return "without completing handshake" not in record.getMessage()
