"""From a request to its reply, whole: the chain answers, the decoder and the vocoder speak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor

from usdm.chain.components import Components
from usdm.chain.stages import Answer, Chain, Question
from usdm.types import ReferenceVoice, Sampling, SpokenReply, Waveform
from usdm.unit_to_speech import DecoderSampling

FEWEST_UNITS = 3  # a tenth of a second or so
FEW_LETTERS = 20  # that a syllable or two may be
FADE = 0.02  # seconds; a reply that is cut off ends in a fade and not in a click


class ReplyOptions(TypedDict, total=False):
    """What a caller may say about a reply, by keyword."""

    transcript: str | None  # what the recording says, where that is known: nothing is transcribed
    reply: str | None  # the reply in words, where that is settled: nothing is left but to speak it
    reference: Waveform | ReferenceVoice | None  # a recording whose voice to speak in
    voice: str | None  # a voice of the bundle by name; None is the bundle's own choice
    sampling: Mapping[str, Sampling] | None  # of single stages (transcribe, respond, speak), instead of the bundle's
    decoder: DecoderSampling | None  # instead of the bundle's
    speak: bool  # False leaves the reply as text
    seed: int  # of the decoder and of all stages that `sampling` does not set; 0


@dataclass(frozen=True)
class Request:
    """A question and all that is settled about its reply."""

    question: Question
    chain: Chain
    sampling: Mapping[str, Sampling]  # by stage
    voice: ReferenceVoice | None
    decoder: DecoderSampling
    speak: bool
    seed: int
    start: float  # seconds on `time.perf_counter`, when it was made
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage, so far


def whole_reply(parts: Components, request: Request) -> SpokenReply:
    """The reply when all of it is there."""
    answer = request.chain.answer(request.question, request.sampling, request.speak)
    request.timings.update(answer.timings)
    sound = None
    if request.speak and answer.agent_units is not None and len(answer.agent_units):
        sound = units_to_sound(parts, answer.agent_units, request.voice, request.decoder, request.seed, request.timings)
        if "speak" in answer.truncated:
            sound = fade_out(sound, parts.speech.sample_rate)
    return spoken_reply(parts, request, answer, sound, request.timings)


def unspoken(text: str | None, units: Tensor | None) -> str | None:
    """Why a reply of (U,) units is none to be heard, or None if it is one."""
    if units is None or not len(units):
        return "the model chose to say nothing; ask in other words, or set a seed"
    letters = len(text or "")
    if len(units) < FEWEST_UNITS and letters > FEW_LETTERS:
        return f"the model spoke {len(units)} units for a reply of {letters} letters; ask in fewer words, or set a seed"
    return None


def units_to_sound(
    parts: Components,
    units: Tensor,
    voice: ReferenceVoice | None,
    decoder: DecoderSampling,
    seed: int,
    timings: dict[str, float],
) -> Tensor:
    """(U,) units -> (T,) sound at the speech part's sample rate."""
    spoken = parts.speech([units], [voice], [seed], decoder)
    timings.update(spoken.timings)
    return spoken.sounds[0]


def spoken_reply(
    parts: Components,
    request: Request,
    answer: Answer,
    sound: Tensor | None,
    timings: Mapping[str, float],
    first_sound: float | None = None,
) -> SpokenReply:
    return SpokenReply(
        user_units=request.question.units,
        user_text=answer.user_text,
        agent_text=answer.agent_text,
        agent_units=answer.agent_units,
        waveform=sound,
        sample_rate=parts.speech.sample_rate,
        timings=timings,
        truncated=answer.truncated,
        first_sound=first_sound,
    )


def fade_out(samples: Tensor, sample_rate: int) -> Tensor:
    """(T,) with its end faded to nothing."""
    length = min(len(samples), int(FADE * sample_rate))
    faded = samples.clone()
    faded[len(samples) - length :] *= torch.linspace(1, 0, length)
    return faded
