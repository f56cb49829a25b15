"""Single requests to the same model: a text to be spoken, a recording to be written down."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal, TypeVar

import numpy as np
import soundfile
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from usdm.audio import read_audio
from usdm.chain import Question
from usdm.serve.audio_formats import PCM16
from usdm.serve.engine_events import (
    EngineEvent,
    Fault,
    ReplyEnded,
    ReplySound,
    Transcribed,
    TranscriptionFailed,
    TurnHeard,
    TurnRefused,
)
from usdm.serve.line import Line
from usdm.serve.replies import ReplyOrder
from usdm.serve.server import Server, refused
from usdm.serve.settings import ReplySettings
from usdm.types import InputError

LONGEST_TEXT = 4096  # characters
CUE = "hello"  # what the user says before the words to be spoken: the model speaks nothing but answers
SENTENCE = re.compile(r"[^.!?;:]+[.!?;:]*")
CONTAINERS = {"wav": ("WAV", "PCM_16", "audio/wav"), "flac": ("FLAC", "PCM_16", "audio/flac")}
CONTAINERS |= {"mp3": ("MP3", "MPEG_LAYER_III", "audio/mpeg"), "opus": ("OGG", "OPUS", "audio/ogg")}

Wanted = TypeVar("Wanted")


class SpeechRequest(BaseModel):
    """See OpenAI's `audio.speech.create`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
    model: str | None = None
    voice: str | None = None
    response_format: Literal["mp3", "opus", "flac", "wav", "pcm"] = "mp3"
    speed: Literal[1, 1.0] | None = None  # type: ignore[valid-type]
    seed: Annotated[int, Field(ge=0)] = 0  # not of the protocol


async def speech(server: Server, request: Request) -> Response:
    """A text in a voice."""
    if (too_large := _too_large(server, request, server.limits.message_bytes)) is not None:
        return too_large
    try:
        wanted = SpeechRequest.model_validate(json.loads(await request.body()))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(map(str, first["loc"]))
        return refused(server, 400, "invalid_value", f"{param}: {first['msg']}", param)
    except (ValueError, RecursionError) as error:
        return refused(server, 400, "invalid_json", f"not JSON: {error}")
    if wanted.voice not in (None, "default", *server.model.voices):
        known = ", ".join(["default", *server.model.voices])
        return refused(server, 400, "invalid_value", f"voice {wanted.voice!r}: this model has {known}", "voice")
    voice = None if wanted.voice == "default" else wanted.voice
    try:
        sound = await _speak(server, wanted.input, ReplySettings(voice=voice, seed=wanted.seed))
    except InputError as error:
        return refused(server, 400, "invalid_value", str(error), "input")
    if wanted.response_format == "pcm":
        return Response(sound, media_type="audio/pcm")
    container, subtype, media_type = CONTAINERS[wanted.response_format]
    file = io.BytesIO()
    samples = np.frombuffer(sound, dtype="<i2")
    soundfile.write(file, samples, PCM16.sample_rate, format=container, subtype=subtype)
    return Response(file.getvalue(), media_type=media_type)


async def transcriptions(server: Server, request: Request) -> Response:
    """A recording's words."""
    if (too_large := _too_large(server, request, server.limits.upload_bytes)) is not None:
        return too_large
    async with request.form(max_files=1, max_fields=20) as form:
        file, kind = form.get("file"), form.get("response_format") or "json"
        if not isinstance(file, UploadFile):
            return refused(server, 400, "missing_required_parameter", "send a recording as file", "file")
        if kind not in ("json", "text"):
            return refused(server, 400, "invalid_value", f"response_format {kind!r}: json or text", "response_format")
        data = await file.read()
    try:
        sound = await asyncio.to_thread(read_audio, data, max_seconds=server.limits.turn_seconds)
        text = await _transcribe(server, sound.samples, sound.sample_rate)
    except InputError as error:
        return refused(server, 400, "invalid_value", str(error), "file")
    return PlainTextResponse(text + "\n") if kind == "text" else JSONResponse({"text": text})


async def _speak(server: Server, text: str, settings: ReplySettings) -> bytes:
    """16-bit PCM at 24 kHz, sentence after sentence. Raises InputError for words that the model cannot say."""
    sound = bytearray()
    sentences = [each.strip() for each in SENTENCE.findall(text) if any(map(str.isalnum, each))]
    if not sentences:
        raise InputError(f"{text!r}: there are no words in it")
    async with _own_line(server) as (line, events):
        for number, sentence in enumerate(sentences):
            line.reply(ReplyOrder(str(number), Question(text=CUE, reply=sentence), settings))
            while not isinstance(event := await events.get(), ReplyEnded):
                if isinstance(event, ReplySound):
                    sound += event.sound
                elif isinstance(event, Fault):
                    raise InputError(event.message)
            if event.failure is not None:
                raise InputError(event.failure)
    return bytes(sound)


async def _transcribe(server: Server, samples: torch.Tensor, rate: int) -> str:
    async with _own_line(server) as (line, events):
        line.hear_whole("recording", samples, rate)
        heard = await events.get()
        if isinstance(heard, TurnRefused | Fault):
            raise InputError(heard.message)
        assert isinstance(heard, TurnHeard)
        line.transcribe(heard.item_id, heard.units)
        result = await events.get()
        if isinstance(result, TranscriptionFailed | Fault):
            raise InputError(result.message)
        assert isinstance(result, Transcribed)
        return result.text


@asynccontextmanager
async def _own_line(server: Server) -> AsyncIterator[tuple[Line, asyncio.Queue[EngineEvent]]]:
    events: asyncio.Queue[EngineEvent] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(event: EngineEvent) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    line = Line(server.engine, tell, server.chain, PCM16.sample_rate, server.limits.turn_seconds)
    try:
        yield line, events
    finally:
        line.close()


def _too_large(server: Server, request: Request, most: int) -> Response | None:
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        return refused(server, 411, "length_required", "say how long the request is: Content-Length")
    if int(length) > most:
        return refused(server, 413, "too_large", f"a request of {length} bytes: {most} are allowed")
    return None
