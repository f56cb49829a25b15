"""The page: talk at the top, with an open microphone; below it turn by turn: speak or type on the left, and read, hear
and see the answer on the right.

Talking is the work of `page/talk.js` and of the server of `usdm.serve`, whose routes are on the same port. Turn by
turn, a recording is answered as soon as it ends, a file as soon as it is uploaded, a typed question on Enter. The
reply is heard while it is being made: its chunks go to a hidden box, and `player.js` plays what is in it. The page
is all served from here: no analytics, no remote fonts, nothing that leaves the machine.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from demo.answer import Asked, answer, blank, wording
from demo.talk import HEAD, app_options, talk_element
from usdm.chain import SpokenDialogPipeline
from usdm.serve.access import LOOPBACK, check_port
from usdm.serve.model import make_server
from usdm.turns import Silence, TurnDetection
from usdm.types import InputError

MAX_UPLOAD = "50mb"
WAITING = 16  # questions at once; whoever comes later is told to come again
FORGET = (600, 3600)  # seconds: every so often, sound older than so long is deleted; all of it when the page closes
STYLE = Path(__file__).with_name("page.css")
PLAYER = Path(__file__).with_name("player.js")
WAVEFORM = gr.WaveformOptions(waveform_color="#c7d2fe", waveform_progress_color="#6366f1")
OWN_VOICE = "the model's own"
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


def build_app(pipeline: SpokenDialogPipeline, token: str | None = None) -> gr.Blocks:
    """The page for one pipeline; `launch` serves it. `token`: of the server that one talks to."""
    with gr.Blocks(title="usdm", analytics_enabled=False, delete_cache=FORGET, fill_width=True) as app:
        history = gr.State(())  # of Turn
        gr.Markdown("# usdm\nSpoken dialog, in one model: it hears, thinks and speaks.", elem_id="heading")
        gr.HTML(talk_element(pipeline, token), elem_id="talk", js_on_load=None, apply_default_css=False)
        gr.Markdown("## Turn by turn", elem_id="turns")
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
                live = gr.Textbox(visible="hidden", elem_id="live")
                sound = gr.Audio(
                    label="Reply",
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
                        value=wording(pipeline).temperature,
                        step=0.05,
                        label="Temperature of the wording",
                        info="0: always the likeliest reply",
                    )
                    seed = gr.Number(0, precision=0, minimum=0, label="Seed")
                    voice = gr.Dropdown(
                        [(OWN_VOICE, ""), *pipeline.voices],
                        value="",
                        label="Voice",
                        visible=bool(pipeline.voices),
                        elem_id="voice",
                    )
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

        settings = [history, kind, temperature, seed, voice, reference]
        shown = [history, conversation, message, sound, picture, times, live]

        def speak(recording_path: str | None, *chosen: Any) -> Iterator[list[Any]]:
            if recording_path is None:  # somebody went from the microphone to files, which is an input to gradio too
                yield [gr.skip() for _ in shown]
            else:
                yield from answer(pipeline, Asked(recording_path, None, *chosen))

        def write(text: str, *chosen: Any) -> Iterator[list[Any]]:
            yield from answer(pipeline, Asked(None, text, *chosen))

        recording.input(speak, [recording, *settings], shown, api_name="speak").then(
            lambda: None, None, recording, api_visibility="private"
        )
        typed.submit(write, [typed, *settings], shown, api_name="write").then(
            lambda: "", None, typed, api_visibility="private"
        )
        live.change(None, live, None, js="text => usdmPlayer.hear(text)", api_visibility="private")
        for cleared in (clear.click, conversation.clear):
            cleared(blank, None, shown, api_visibility="private")
    return app


def check_login(share: bool, login: tuple[str, str] | None) -> None:
    """Raises InputError for a page that is open to the public."""
    if share and login is None:
        raise InputError(
            "share=true without a login: anybody could have it speak in anybody's voice; set the environment variable "
            "USDM_LOGIN=NAME:PASSWORD, which the page then asks for, or take share=false"
        )


def launch(
    pipeline: SpokenDialogPipeline,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    block: bool = True,
    rule: TurnDetection = Silence(),  # noqa: B008 (frozen)
    login: tuple[str, str] | None = None,
) -> gr.Blocks:
    """Serve the page at http://`host`:`port` until interrupted, or with `block` False until the page is closed.

    `share` asks gradio for a public tunnel, the one thing that uses the network. `rule` finds the ends of turns that
    are talked. Whoever can open the page can talk: elsewhere than on this machine by a token that the page brings.
    `login`, a name and a password, is asked of whoever opens the page.

    Raises InputError if a page for the public has no login, if the port is none or taken, and as `make_server` does.
    """
    check_login(share, login)
    check_port(port)
    token = None if host in LOOPBACK and not share else secrets.token_urlsafe()
    server = make_server(pipeline, rule, token=token)
    app = build_app(pipeline, token).queue(max_size=WAITING)
    try:
        app.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=login,
            prevent_thread_lock=not block,
            theme=theme(),
            css_paths=STYLE,
            head=f"<script>{PLAYER.read_text(encoding='utf-8')}</script>{HEAD}",
            app_kwargs=app_options(server),
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            max_file_size=MAX_UPLOAD,
            quiet=True,
        )
    except OSError as error:
        raise InputError(f"port={port}: cannot be served on {host} ({error}); choose another port") from error
    return app
