"""Who may talk to the server."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from usdm.types import InputError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
LAST_PORT = 65_535
BROWSER_TOKEN = "openai-insecure-api-key."  # a browser can send no header with a WebSocket, but subprotocols


def check_exposure(host: str, token: str | None) -> None:
    """Raises InputError for a server that others than this machine could use without a token."""
    if host not in LOOPBACK and not token:
        raise InputError(
            f"host={host} without a token: whoever reaches this machine could use the model; set the environment "
            "variable USDM_TOKEN, which clients then send as a bearer token, or take host=127.0.0.1"
        )


def check_port(port: int) -> None:
    """Raises InputError for a number that no port has; 0 takes any that is free."""
    if not 0 <= port <= LAST_PORT:
        raise InputError(f"port={port}: a port is a number from 0 to {LAST_PORT}; choose another one")


def has_token(connection: HTTPConnection, token: str | None) -> bool:
    """Compared in a time that does not depend on what is right about it."""
    return token is None or any(hmac.compare_digest(each.encode(), token.encode()) for each in _tokens(connection))


def is_own_page(connection: HTTPConnection) -> bool:
    """A page from elsewhere, open in a browser on this machine, must not talk to the server behind the user's back.

    What is no browser sends no origin.
    """
    origin = connection.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == connection.headers.get("host")


def is_own_name(connection: HTTPConnection, token: str | None) -> bool:
    """Without a token, only under a name of this machine: not one that a page's owner lets point to it."""
    return token is not None or connection.url.hostname in LOOPBACK


def _tokens(connection: HTTPConnection) -> list[str]:
    kind, _, bearer = connection.headers.get("authorization", "").partition(" ")
    offered = [each.strip() for each in connection.headers.get("sec-websocket-protocol", "").split(",")]
    given = [each.removeprefix(BROWSER_TOKEN) for each in offered if each.startswith(BROWSER_TOKEN)]
    return [bearer.strip(), *given] if kind.lower() == "bearer" else given
