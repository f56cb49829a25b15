"""What the page shows while a question is answered, step by step, and when it cannot be."""

from __future__ import annotations

import base64
import html
import logging
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from demo.spectrogram import reply_picture
from demo.stage_bar import stage_bar
from usdm.audio import read_audio
from usdm.chain import SpokenDialogPipeline, SpokenText
from usdm.chain.streaming import StreamEvent
from usdm.types import InputError, Sampling, SpokenReply, Turn, Waveform

logger = logging.getLogger(__name__)

MAX_SECONDS = 30.0  # of a question or a reference voice
PCM16_FULL_SCALE = 32767
NOTHING = "…"  # shown where the model wrote no text


@dataclass(frozen=True)
class Asked:
    """A question and the page's settings."""

    recording_path: str | None
    text: str | None
    history: tuple[Turn, ...]
    kind: str  # of the reply: speech or text
    temperature: float
    seed: float | None
    voice: str | None  # empty: the model's own
    reference_path: str | None


def answer(pipeline: SpokenDialogPipeline, asked: Asked) -> Iterator[list[Any]]:
    """New values of everything shown, whenever there is something new: history, conversation, message, sound,
    picture, times and what is played live. What cannot be answered leaves the conversation as it was."""
    said: tuple[Turn, ...] = ()
    live = ""
    notes: list[str] = []  # about the recordings
    try:
        with closing(_events(pipeline, asked, notes.append)) as events:
            for event in events:
                if isinstance(event, SpokenReply):
                    yield _finished(asked.history, event, [_without_paths(note, asked) for note in notes])
                elif isinstance(event, SpokenText):
                    said = (*said, Turn(event.role, _writable(event.text)))
                    yield _so_far(asked.history, said, live)
                else:
                    live = (live or f"{uuid.uuid4().hex} {event.sample_rate}") + "\n" + _base64(event.samples)
                    yield _so_far(asked.history, said, live)
    except InputError as error:
        yield _failed(asked.history, said, _without_paths(str(error), asked))
    except Exception as error:  # ours to mend, not the visitor's: the page lives on
        logger.exception("a question could not be answered")
        message = f"Something went wrong ({type(error).__name__}). The server's log has the details."
        yield _failed(asked.history, said, message)


def wording(pipeline: SpokenDialogPipeline) -> Sampling:
    """How the model's own settings draw a reply's words."""
    return pipeline.settings.sampling.get("respond", Sampling())


def blank() -> list[Any]:
    """A conversation that has not begun."""
    hidden = gr.update(value=None, visible=False)
    return [(), [], _notice(""), hidden, hidden, hidden, ""]


def _events(
    pipeline: SpokenDialogPipeline, asked: Asked, warn: Callable[[str], None]
) -> Generator[StreamEvent, None, None]:
    """Raises InputError for a question or a reference voice that cannot be worked with."""
    if asked.recording_path is None and not (asked.text or "").strip():
        raise InputError("there is no question: record one, upload one, or type one")
    question, reference = (
        None if path is None else read_audio(path, max_seconds=MAX_SECONDS, warn=warn)
        for path in (asked.recording_path, asked.reference_path)
    )
    seed = int(asked.seed or 0)
    sampling = {stage: replace(settings, seed=seed) for stage, settings in pipeline.settings.sampling.items()}
    beams = 1 if asked.temperature else wording(pipeline).num_beams  # what is drawn is not searched
    sampling["respond"] = replace(wording(pipeline), temperature=asked.temperature, seed=seed, num_beams=beams)
    yield from pipeline.stream(
        question.samples if question else None,
        question.sample_rate if question else None,
        text=None if question else asked.text,
        history=asked.history,
        reference=reference,
        voice=asked.voice or None,
        sampling=sampling,
        speak=asked.kind == "speech",
        seed=seed,
    )


def _so_far(history: tuple[Turn, ...], said: tuple[Turn, ...], live: str) -> list[Any]:
    """A reply that is being made: its words in the conversation, its sound in the player, the last one's gone."""
    hidden = gr.update(value=None, visible=False)
    return [history, _bubbles((*history, *said)), _notice(""), hidden, hidden, hidden, live]


def _finished(history: tuple[Turn, ...], reply: SpokenReply, notes: Sequence[str]) -> list[Any]:
    history = (*history, Turn("user", _writable(reply.user_text)), Turn("agent", _writable(reply.agent_text)))
    return [
        history,
        _bubbles(history),
        _notice(" ".join([*notes, *_warnings(reply)])),
        *_heard_and_seen(reply),
        gr.skip(),
    ]


def _failed(history: tuple[Turn, ...], said: tuple[Turn, ...], message: str) -> list[Any]:
    """A message under the conversation, and everything else as it was before the question."""
    conversation = _bubbles(history) if said else gr.skip()
    return [history, conversation, _notice(message), gr.skip(), gr.skip(), gr.skip(), ""]


def _writable(text: str | None) -> str:
    """A turn's text without what stands for bytes that are no character, which no tokenizer takes back."""
    return (text or "").replace("\ufffd", "")


def _bubbles(history: tuple[Turn, ...]) -> list[dict[str, str]]:
    speakers = {"user": "user", "agent": "assistant"}
    return [{"role": speakers[turn.role], "content": turn.text.strip() or NOTHING} for turn in history]


def _notice(message: str) -> dict[str, Any]:
    """A line under the conversation; none for an empty message."""
    return gr.update(value=f'<div class="notice">{html.escape(message)}</div>', visible=bool(message))


def _without_paths(message: str, asked: Asked) -> str:
    """The message in the page's words: nobody knows the upload's temporary file."""
    for path, name in ((asked.recording_path, "the recording"), (asked.reference_path, "the reference voice")):
        message = message.replace(path, name) if path else message
    return message


def _warnings(reply: SpokenReply) -> list[str]:
    return [f"Cut off at the token limit: {', '.join(reply.truncated)}."] if reply.truncated else []


def _heard_and_seen(reply: SpokenReply) -> list[dict[str, Any]]:
    """New values of the reply's sound, picture and stage times."""
    if reply.waveform is None or reply.waveform.numel() == 0:
        sound = picture = gr.update(value=None, visible=False)
        seconds = 0.0
    else:
        waveform = Waveform(reply.waveform, reply.sample_rate)
        sound = gr.update(value=(reply.sample_rate, _pcm16(waveform.samples).numpy()), visible=True)
        picture = gr.update(value=reply_picture(waveform, _writable(reply.agent_text)), visible=True)
        seconds = waveform.seconds
    times = stage_bar(reply.timings, seconds, reply.first_sound)
    return [sound, picture, gr.update(value=times, visible=True)]


def _pcm16(samples: Tensor) -> Tensor:
    return (samples.clamp(-1, 1) * PCM16_FULL_SCALE).round().to(torch.int16)


def _base64(samples: Tensor) -> str:
    return base64.b64encode(_pcm16(samples).numpy().tobytes()).decode()
