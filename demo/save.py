"""A conversation to take away: its sound, and a JSONL that `usdm synthesize` reads."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import soundfile
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from usdm.serve.audio_formats import PCM16, from_base64
from usdm.serve.server import Server, refusal, refused
from usdm.types import InputError, Role

LONGEST = 200_000_000  # bytes of a request: more than half an hour of sound


class Spoken(BaseModel):
    """One turn; `heard` is what of an agent's text was said before it was cut off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    text: str
    heard: str
    units: list[int] = []
    audio: str = ""  # base64 of 16-bit PCM at 24 kHz


class Conversation(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    turns: list[Spoken] = Field(min_length=1, max_length=500)
    voice: str | None = None
    seed: int = 0


async def save(server: Server, request: Request) -> Response:
    """JSON as `Conversation` -> a zip. Nothing of it stays here."""
    if (foreign := refusal(server, request)) is not None:
        return foreign
    if int(request.headers.get("content-length", LONGEST + 1)) > LONGEST:
        return refused(server, 413, "too_large", f"a conversation has {LONGEST} bytes at most")
    try:
        data = packed(Conversation.model_validate(json.loads(await request.body())))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return refused(server, 400, "invalid_value", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except (InputError, ValueError) as error:
        return refused(server, 400, "invalid_value", str(error))
    return Response(data, media_type="application/zip")


def packed(conversation: Conversation) -> bytes:
    """`conversation.wav`, every turn's own sound, `questions.jsonl` for `usdm synthesize`, and `turns.jsonl` with all
    that is known of each turn. Raises InputError for sound that is none."""
    file = io.BytesIO()
    questions: list[dict[str, object]] = []
    turns: list[dict[str, object]] = []
    history: list[dict[str, str]] = []
    sounds = [from_base64(turn.audio) for turn in conversation.turns]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (turn, sound) in enumerate(zip(conversation.turns, sounds, strict=True), start=1):
            name = f"{number:03d}-{turn.role}"
            row: dict[str, object] = {"id": name}
            if sound:
                archive.writestr(f"{name}.wav", _wav(sound))
                row["audio"] = f"{name}.wav"
            turns.append({**row, "role": turn.role, "text": turn.text, "heard": turn.heard, "units": turn.units})
            if turn.role == "user" and (sound or turn.text.strip()):
                asked = dict(row)
                if turn.text.strip():
                    asked["transcript" if sound else "text"] = turn.text
                if conversation.voice:
                    asked["voice"] = conversation.voice
                questions.append({**asked, "seed": conversation.seed, "history": list(history)})
            if turn.heard.strip():
                history.append({"role": turn.role, "text": turn.heard.strip()})
        archive.writestr("conversation.wav", _wav(b"".join(sounds)))
        archive.writestr("questions.jsonl", _lines(questions))
        archive.writestr("turns.jsonl", _lines(turns))
    return file.getvalue()


def _wav(sound: bytes) -> bytes:
    if len(sound) % PCM16.bytes_per_sample:
        raise InputError(f"{len(sound)} bytes of sound: a sample has {PCM16.bytes_per_sample}; send whole samples")
    file = io.BytesIO()
    soundfile.write(file, np.frombuffer(sound, dtype="<i2"), PCM16.sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
