"""The open microphone's part of the page, and what of the server is behind it."""

from __future__ import annotations

import html
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from demo.again import again
from demo.answer import wording
from demo.save import save
from usdm.chain import SpokenDialogPipeline
from usdm.serve.app import routes
from usdm.serve.server import Server

FILES = Path(__file__).with_name("page")
HEAD = '<script type="module" src="page/talk.js"></script><link rel="stylesheet" href="page/talk.css">'


def talk_element(pipeline: SpokenDialogPipeline, token: str | None) -> str:
    """HTML: `page/talk.js` makes the rest of it. `token`: what the page's visitors show to the server."""
    told = {"voices": pipeline.voices, "temperature": wording(pipeline).temperature, "token": token}
    return f'<usdm-talk data-told="{html.escape(json.dumps(told))}"></usdm-talk>'


def app_options(server: Server) -> dict[str, Any]:
    """For gradio's FastAPI app: the server's routes beside its own, and the engine for as long as it runs."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with server.engine:
            yield

    own = [
        Route("/page/again", partial(again, server), methods=["POST"]),
        Route("/page/conversation.zip", partial(save, server), methods=["POST"]),
        Mount("/page", StaticFiles(directory=FILES)),
    ]
    return {"routes": [*routes(server), *own], "lifespan": lifespan}
