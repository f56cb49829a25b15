"""The page: speak or type on the left, and read, hear and see the answer on the right.

A recording is answered as soon as it ends, a file as soon as it is uploaded, a typed question on Enter. The
page is all served from here: no analytics, no remote fonts, nothing that leaves the machine.
"""

from __future__ import annotations

import html
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from demo.spectrogram import reply_picture
from demo.stage_bar import stage_bar
from usdm.audio import read_audio
from usdm.chain import SpokenDialogPipeline
from usdm.types import InputError, Sampling, SpokenReply, Turn, Waveform

logger = logging.getLogger(__name__)

MAX_SECONDS = 30.0  # of a question or a reference voice
MAX_UPLOAD = "50mb"
FORGET = (600, 3600)  # seconds: every so often, sound older than so long is deleted; all of it when the page closes
PCM16_FULL_SCALE = 32767
STYLE = Path(__file__).with_name("page.css")
WAVEFORM = gr.WaveformOptions(waveform_color="#c7d2fe", waveform_progress_color="#6366f1")
NOTHING = "…"  # shown where the model wrote no text
PLACEHOLDER = "<center><h3>Say something</h3>Speak into the microphone, drop a recording, or type a question.</center>"


def theme() -> gr.themes.Base:
    """Fonts that come with gradio itself."""
    return gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "monospace"],
    )


def build_app(pipeline: SpokenDialogPipeline) -> gr.Blocks:
    """The page for one pipeline; `launch` serves it."""
    with gr.Blocks(title="usdm", analytics_enabled=False, delete_cache=FORGET, fill_width=True) as app:
        history = gr.State(())  # of Turn
        gr.Markdown("# usdm\nSpoken dialog, in one model: it hears, thinks and speaks.", elem_id="heading")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                recording = gr.Audio(
                    sources=["microphone", "upload"],
                    type="filepath",
                    label="Speak",
                    editable=False,
                    buttons=[],
                    waveform_options=WAVEFORM,
                    elem_id="question",
                )
                typed = gr.Textbox(
                    placeholder="… or type, and press Enter",
                    show_label=False,
                    submit_btn=True,
                    max_lines=3,
                    elem_id="typed",
                )
                sound = gr.Audio(
                    label="Reply",
                    autoplay=True,
                    interactive=False,
                    visible=False,
                    buttons=["download"],
                    waveform_options=WAVEFORM,
                    elem_id="reply",
                )
                times = gr.HTML(visible=False, elem_id="times")
                with gr.Accordion("Advanced", open=False):
                    kind = gr.Radio(["speech", "text"], value="speech", label="Reply as")
                    temperature = gr.Slider(
                        0,
                        1.5,
                        value=_wording(pipeline).temperature,
                        step=0.05,
                        label="Temperature of the wording",
                        info="0: always the likeliest reply",
                    )
                    seed = gr.Number(0, precision=0, minimum=0, label="Seed")
                    reference = gr.Audio(
                        sources=["upload", "microphone"],
                        type="filepath",
                        label="Reference voice",
                        editable=False,
                        buttons=[],
                        elem_id="reference",
                    )
                clear = gr.Button("New conversation", variant="secondary", elem_id="clear")
            with gr.Column(scale=3, min_width=420):
                conversation = gr.Chatbot(
                    show_label=False,
                    height=340,
                    buttons=[],
                    placeholder=PLACEHOLDER,
                    feedback_options=None,
                    render_markdown=False,
                    elem_id="conversation",
                )
                message = gr.HTML(visible=False, elem_id="message")
                picture = gr.Image(
                    show_label=False,
                    interactive=False,
                    visible=False,
                    buttons=["fullscreen"],
                    container=False,
                    elem_id="picture",
                )

        settings = [history, kind, temperature, seed, reference]
        shown = [history, conversation, message, sound, picture, times]

        def speak(recording_path: str | None, *chosen: Any) -> list[Any]:
            return _show(pipeline, recording_path, None, *chosen)

        def write(text: str, *chosen: Any) -> list[Any]:
            return _show(pipeline, None, text, *chosen)

        recording.input(speak, [recording, *settings], shown, api_name="speak").then(
            lambda: None, None, recording, api_visibility="private"
        )
        typed.submit(write, [typed, *settings], shown, api_name="write").then(
            lambda: "", None, typed, api_visibility="private"
        )
        for cleared in (clear.click, conversation.clear):
            cleared(_blank, None, shown, api_visibility="private")
    return app


def launch(
    pipeline: SpokenDialogPipeline,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    block: bool = True,
) -> gr.Blocks:
    """Serve the page at http://`host`:`port` until interrupted, or with `block` False until the page is closed.

    `share` asks gradio for a public tunnel, the one thing that uses the network.

    Raises InputError if the port is taken.
    """
    app = build_app(pipeline)
    try:
        app.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=not block,
            theme=theme(),
            css_paths=STYLE,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            max_file_size=MAX_UPLOAD,
            quiet=True,
        )
    except OSError as error:
        raise InputError(f"port={port}: cannot be served on {host} ({error}); choose another port") from error
    return app


def _show(
    pipeline: SpokenDialogPipeline,
    recording_path: str | None,
    text: str | None,
    history: tuple[Turn, ...],
    kind: str,
    temperature: float,
    seed: float | None,
    reference_path: str | None,
) -> list[Any]:
    """New values of everything shown. What cannot be answered leaves the conversation as it was."""
    try:
        reply = _respond(pipeline, recording_path, text, history, kind, temperature, int(seed or 0), reference_path)
    except InputError as error:
        return _unchanged(history, _without_paths(error, recording_path, reference_path))
    except Exception as error:  # ours to mend, not the visitor's: the page lives on
        logger.exception("a question could not be answered")
        return _unchanged(history, f"Something went wrong ({type(error).__name__}). The server's log has the details.")
    history = (*history, Turn("user", _writable(reply.user_text)), Turn("agent", _writable(reply.agent_text)))
    return [history, _bubbles(history), _notice(_warning(reply)), *_heard_and_seen(reply)]


def _respond(
    pipeline: SpokenDialogPipeline,
    recording_path: str | None,
    text: str | None,
    history: tuple[Turn, ...],
    kind: str,
    temperature: float,
    seed: int,
    reference_path: str | None,
) -> SpokenReply:
    """Raises InputError for a question or a reference voice that cannot be worked with."""
    if recording_path is None and not (text or "").strip():
        raise InputError("there is no question: record one, upload one, or type one")
    question = None if recording_path is None else read_audio(recording_path, max_seconds=MAX_SECONDS)
    reference = None if reference_path is None else read_audio(reference_path, max_seconds=MAX_SECONDS)
    sampling = {stage: replace(settings, seed=seed) for stage, settings in pipeline.settings.sampling.items()}
    sampling["respond"] = replace(_wording(pipeline), temperature=temperature, seed=seed)
    return pipeline.respond(
        question.samples if question else None,
        question.sample_rate if question else None,
        text=None if question else text,
        history=history,
        reference=reference,
        sampling=sampling,
        speak=kind == "speech",
        seed=seed,
    )


def _wording(pipeline: SpokenDialogPipeline) -> Sampling:
    """How the model's own settings draw a reply's words."""
    return pipeline.settings.sampling.get("respond", Sampling())


def _writable(text: str | None) -> str:
    """A turn's text without what stands for bytes that are no character, which no tokenizer takes back."""
    return (text or "").replace("\ufffd", "")


def _bubbles(history: tuple[Turn, ...]) -> list[dict[str, str]]:
    speakers = {"user": "user", "agent": "assistant"}
    return [{"role": speakers[turn.role], "content": turn.text.strip() or NOTHING} for turn in history]


def _notice(message: str) -> dict[str, Any]:
    """A line under the conversation; none for an empty message."""
    return gr.update(value=f'<div class="notice">{html.escape(message)}</div>', visible=bool(message))


def _unchanged(history: tuple[Turn, ...], message: str) -> list[Any]:
    """A message under the conversation, and everything else as it is."""
    return [history, gr.skip(), _notice(message), gr.skip(), gr.skip(), gr.skip()]


def _without_paths(error: InputError, recording_path: str | None, reference_path: str | None) -> str:
    """The message in the page's words: nobody knows the upload's temporary file."""
    message = str(error)
    for path, name in ((recording_path, "the recording"), (reference_path, "the reference voice")):
        message = message.replace(path, name) if path else message
    return message


def _warning(reply: SpokenReply) -> str:
    if not reply.truncated:
        return ""
    return f"Cut off at the token limit: {', '.join(reply.truncated)}."


def _heard_and_seen(reply: SpokenReply) -> list[dict[str, Any]]:
    """New values of the reply's sound, picture and stage times."""
    if reply.waveform is None or reply.waveform.numel() == 0:
        sound = picture = gr.update(value=None, visible=False)
        seconds = 0.0
    else:
        waveform = Waveform(reply.waveform, reply.sample_rate)
        pcm = (waveform.samples.clamp(-1, 1) * PCM16_FULL_SCALE).round().to(torch.int16).numpy()
        sound = gr.update(value=(reply.sample_rate, pcm), visible=True)
        picture = gr.update(value=reply_picture(waveform, _writable(reply.agent_text)), visible=True)
        seconds = waveform.seconds
    return [sound, picture, gr.update(value=stage_bar(reply.timings, seconds), visible=True)]


def _blank() -> list[Any]:
    """A conversation that has not begun."""
    hidden = gr.update(value=None, visible=False)
    return [(), [], _notice(""), hidden, hidden, hidden]
