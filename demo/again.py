"""The chain from any of its stages on: what is given of a turn stands, what is not is made from it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from demo.answer import MAX_SECONDS, wording
from usdm.audio import read_audio, resample
from usdm.chain import Question, SpokenDialogPipeline
from usdm.chain.replies import units_to_sound, whole_reply
from usdm.serve.audio_formats import PCM16, from_base64, to_base64
from usdm.serve.server import Server, refusal, refused
from usdm.types import InputError, Sampling, Turn, Waveform

LONGEST = 10_000_000  # bytes of a request: a reference recording of half a minute

Units = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=10_000)]
Text = Annotated[str, Field(max_length=4096)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Said(_Strict):
    role: Literal["user", "agent"]
    text: Text


class Asked(_Strict):
    """A turn as far as it stands. `said` alone is only voiced."""

    heard: Units | None = None
    transcript: Text | None = None
    reply: Text | None = None
    said: Units | None = None
    history: list[Said] = []
    voice: str | None = None
    reference: str | None = None  # base64 of a sound file
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


async def again(server: Server, request: Request) -> Response:
    """JSON as `Asked` -> JSON: transcript, reply, said, and the sound as base64 of 16-bit PCM at 24 kHz."""
    if (foreign := refusal(server, request)) is not None:
        return foreign
    if int(request.headers.get("content-length", LONGEST + 1)) > LONGEST:
        return refused(server, 413, "too_large", f"a request has {LONGEST} bytes at most")
    try:
        asked = Asked.model_validate(json.loads(await request.body()))
        return JSONResponse(await asyncio.to_thread(made, server.engine.pipeline, asked))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return refused(server, 400, "invalid_value", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except (InputError, ValueError) as error:
        return refused(server, 400, "invalid_value", str(error))


def made(pipeline: SpokenDialogPipeline, asked: Asked) -> dict[str, Any]:
    """The whole turn. Raises InputError for what the model cannot go on from."""
    _check_units(pipeline, asked)
    reference = None if asked.reference is None else _recording(asked.reference)
    voice = None if reference is not None else asked.voice or None
    if asked.said is not None:
        speaker = pipeline.speaker(reference, voice)
        units = torch.tensor(asked.said)
        sound = units_to_sound(pipeline.parts, units, speaker, pipeline.settings.decoder, asked.seed, {})
        return {
            "transcript": asked.transcript,
            "reply": asked.reply,
            "said": asked.said,
            "audio": _pcm(pipeline, sound),
        }
    if asked.heard is None and asked.transcript is None:
        raise InputError("there is nothing to answer: give the units that were heard, or their transcript")
    question = Question(
        units=None if asked.heard is None else torch.tensor(asked.heard),
        text=_words("transcript", asked.transcript),
        history=tuple(Turn(turn.role, turn.text) for turn in asked.history),
    )
    request = pipeline.request(
        question,
        pipeline.chain(),
        time.perf_counter(),
        reply=_words("reply", asked.reply),
        reference=reference,
        voice=voice,
        sampling=_sampling(pipeline, asked),
        seed=asked.seed,
    )
    reply = whole_reply(pipeline.parts, request)
    said = [] if reply.agent_units is None else reply.agent_units.tolist()
    audio = "" if reply.waveform is None else _pcm(pipeline, reply.waveform)
    return {"transcript": reply.user_text or asked.transcript, "reply": reply.agent_text, "said": said, "audio": audio}


def _check_units(pipeline: SpokenDialogPipeline, asked: Asked) -> None:
    most = pipeline.parts.template.vocabulary.num_units
    for name, units in (("heard", asked.heard), ("said", asked.said)):
        if units is not None and max(units) >= most:
            raise InputError(f"{name}: unit {max(units)}; this model has 0 to {most - 1}")


def _words(name: str, text: str | None) -> str | None:
    if text is not None and not text.strip():
        raise InputError(f"there are no words in the {name}; write some, or go again from the stage before")
    return text


def _sampling(pipeline: SpokenDialogPipeline, asked: Asked) -> Mapping[str, Sampling]:
    drawn = {stage: replace(own, seed=asked.seed) for stage, own in pipeline.settings.sampling.items()}
    if asked.temperature is not None:  # what is drawn is not searched
        beams = 1 if asked.temperature else wording(pipeline).num_beams
        drawn["respond"] = replace(wording(pipeline), temperature=asked.temperature, seed=asked.seed, num_beams=beams)
    return drawn


def _recording(encoded: str) -> Waveform:
    try:
        return read_audio(from_base64(encoded), max_seconds=MAX_SECONDS)
    except InputError as error:
        raise InputError(f"the reference voice: {error}") from error


def _pcm(pipeline: SpokenDialogPipeline, sound: torch.Tensor) -> str:
    return to_base64(PCM16.encode(resample(sound, pipeline.sample_rate, PCM16.sample_rate)))
