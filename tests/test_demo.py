"""The voice demo's page: asked by a client, and looked at in a browser where there is one. Loopback only."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import pytest
import torch
from gradio_client import Client, handle_file
from selenium import webdriver
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from tiny_models import build_random_bundle

from demo import build_app, launch
from demo.answer import Asked, answer
from demo.spectrogram import reply_picture
from demo.stage_bar import stage_bar
from usdm.audio import read_audio, write_audio
from usdm.chain import DecoderSampling, GenerationSettings, SpokenChunk, SpokenDialogPipeline
from usdm.chain.streaming import StreamEvent
from usdm.types import InputError, Sampling, SpokenReply, Turn, Waveform

WAIT = 60.0  # seconds for the page to change
SPEAKING_SEED = 7  # of random weights that write characters in both texts
SHORT = GenerationSettings(
    {stage: Sampling(max_new_tokens=12) for stage in ("transcribe", "respond", "speak")}, DecoderSampling(steps=2)
)
Found = TypeVar("Found")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> SpokenDialogPipeline:
    bundle = build_random_bundle(tmp_path_factory.mktemp("bundle"), seed=SPEAKING_SEED)
    pipeline = SpokenDialogPipeline.from_pretrained(bundle)
    pipeline.settings = SHORT
    return pipeline


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def page(pipeline: SpokenDialogPipeline, free_port: int) -> Iterator[str]:
    """Address of the served page, everything but loopback out of reach for the server."""
    connect, asked = socket.socket.connect, []

    def only_loopback(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):  # type: ignore[index]
            asked.append(address)
            raise OSError(f"the demo connects to {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", only_loopback)
        app = launch(pipeline, port=free_port, block=False)
        yield f"http://127.0.0.1:{free_port}/"
        app.close()
    assert asked == []


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of noise."""
    path = tmp_path_factory.mktemp("sound") / "question.wav"
    write_audio(path, 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0)), 16_000)
    return path


# By a client


def ask(client: Client, path: Path | None, kind: str = "speech", reference: Path | None = None) -> dict:
    """What the page shows after a recording."""
    values = client.predict(
        path and handle_file(path), kind, 0.0, 0, "", reference and handle_file(reference), api_name="/speak"
    )
    return dict(zip(("conversation", "message", "sound", "picture", "times", "live"), values, strict=True))


def texts(answer: dict) -> list[str]:
    return ["".join(part["text"] for part in bubble["content"]) for bubble in answer["conversation"]]


def shown(value: object) -> str | None:
    """A component's value, None where it is hidden or was left alone."""
    value = value.get("value") if isinstance(value, dict) and "__type__" in value else value
    return None if value is None else str(value)


def test_a_recording_gets_a_transcript_and_a_spoken_reply(
    page: str, pipeline: SpokenDialogPipeline, question: Path
) -> None:
    answer = ask(Client(page, verbose=False), question)
    sound = read_audio(question)
    *_, expected = pipeline.stream(sound.samples, sound.sample_rate)
    assert isinstance(expected, SpokenReply) and expected.waveform is not None
    assert expected.user_text and expected.agent_text
    assert [bubble["role"] for bubble in answer["conversation"]] == ["user", "assistant"]
    assert texts(answer) == [visible(expected.user_text), visible(expected.agent_text)]
    reply = read_audio(shown(answer["sound"]) or "")
    assert (reply.samples.shape, reply.sample_rate) == (expected.waveform.shape, expected.sample_rate)
    assert torch.allclose(reply.samples, expected.waveform.clamp(-1, 1), atol=1e-4)
    assert Path(shown(answer["picture"]) or "").stat().st_size > 0
    times = shown(answer["times"]) or ""
    assert all(stage in times for stage in expected.timings)


def written(text: str | None) -> str:
    """What of a random model's text is characters."""
    return (text or "").replace("\ufffd", "")


def visible(text: str | None) -> str:
    return written(text).strip() or "…"


def test_later_turns_see_the_earlier_ones(page: str, pipeline: SpokenDialogPipeline, question: Path) -> None:
    client = Client(page, verbose=False)
    first, second = ask(client, question), ask(client, question)
    assert texts(second)[:2] == texts(first) and len(texts(second)) == 4
    sound = read_audio(question)
    alone = pipeline.respond(sound.samples, sound.sample_rate)
    history = [Turn("user", written(alone.user_text)), Turn("agent", written(alone.agent_text))]
    expected = pipeline.respond(sound.samples, sound.sample_rate, history=history)
    assert texts(second)[2:] == [visible(expected.user_text), visible(expected.agent_text)]
    assert texts(ask(Client(page, verbose=False), question)) == texts(first)  # somebody else's conversation is new


def test_a_reply_as_text_has_no_sound(page: str, question: Path) -> None:
    answer = ask(Client(page, verbose=False), question, kind="text")
    assert len(texts(answer)) == 2
    assert shown(answer["sound"]) is shown(answer["picture"]) is None


def test_a_reference_voice_changes_the_sound_alone(page: str, question: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "voice.wav", 0.3 * torch.sin(torch.arange(12_000) / 9), 16_000)
    plain = ask(Client(page, verbose=False), question)
    voiced = ask(Client(page, verbose=False), question, reference=tmp_path / "voice.wav")
    assert texts(voiced) == texts(plain)
    first, second = (read_audio(shown(answer["sound"]) or "").samples for answer in (plain, voiced))
    assert first.shape == second.shape and not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    ("seconds", "loudness", "complaint"),
    [
        (1.0, 0.0, "the recording is silent"),
        (0.05, 0.1, "lasts 0.050 s; speech must last at least 0.1 s"),
        (31.0, 0.1, "longer than the limit of 30 s"),
    ],
)
def test_a_recording_that_cannot_be_answered_gets_a_message(
    page: str, question: Path, tmp_path: Path, seconds: float, loudness: float, complaint: str
) -> None:
    client = Client(page, verbose=False)
    before = texts(ask(client, question))
    path = tmp_path / "bad.wav"
    write_audio(path, loudness * torch.randn(int(16_000 * seconds)).clamp(-3, 3), 16_000)
    answer = ask(client, path)
    assert complaint in (shown(answer["message"]) or "") and str(tmp_path) not in (shown(answer["message"]) or "")
    assert shown(answer["conversation"]) is shown(answer["sound"]) is None  # left as they were
    after = texts(ask(client, question))
    assert after[:2] == before and len(after) == 4


def test_a_defect_becomes_a_message_too(
    page: str, question: Path, pipeline: SpokenDialogPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "stream", None)
    answer = ask(Client(page, verbose=False), question)
    assert "Something went wrong (TypeError)" in (shown(answer["message"]) or "")


def test_a_message_never_becomes_part_of_the_page(page: str) -> None:
    client = Client(page, verbose=False)
    values = client.predict("<b>\u4f60</b>" * 400, "speech", 0.0, 0, "", None, api_name="/write")
    message = shown(values[1])
    assert message and "<b>" not in message
    assert "there is no question" in (
        shown(client.predict("  ", "speech", 0.0, 0, "", None, api_name="/write")[1]) or ""
    )


def test_a_port_that_is_taken_is_named(page: str, pipeline: SpokenDialogPipeline, free_port: int) -> None:
    with pytest.raises(InputError, match=f"port={free_port}"):
        launch(pipeline, port=free_port, block=False)


# Step by step


def steps(pipeline: SpokenDialogPipeline, path: Path, voice: str = "") -> list[dict[str, Any]]:
    names = ("history", "conversation", "message", "sound", "picture", "times", "live")
    asked = Asked(str(path), None, (), "speech", 0.0, 0, voice, None)
    return [dict(zip(names, values, strict=True)) for values in answer(pipeline, asked)]


def test_the_page_follows_the_reply(pipeline: SpokenDialogPipeline, question: Path) -> None:
    *before, last = steps(pipeline, question)
    assert [len(step["conversation"]) for step in before] == [1, 2, *[2] * (len(before) - 2)]
    assert last["conversation"] == before[1]["conversation"] and len(before) >= 4
    lives = [step["live"] for step in before]
    assert lives[:2] == ["", ""] and all(later.startswith(live) for live, later in zip(lives, lives[1:], strict=False))
    name, *chunks = lives[-1].split("\n")
    rate, whole = last["sound"]["value"]
    assert name.split()[1] == str(rate) and len(chunks) == len(before) - 2
    assert b"".join(map(base64.b64decode, chunks)) == whole.tobytes()
    assert "heard from" in last["times"]["value"]


def test_a_model_that_searches_its_replies_can_draw_them_too(pipeline: SpokenDialogPipeline) -> None:
    searched = dict(SHORT.sampling) | {"respond": Sampling(max_new_tokens=8, num_beams=3)}
    searching = SpokenDialogPipeline(pipeline.parts, pipeline.folders, replace(SHORT, sampling=searched))
    for temperature in (0.0, 1.0):
        *_, last = answer(searching, Asked(None, "hello", (), "text", temperature, 0, "", None))
        assert [turn.role for turn in last[0]] == ["user", "agent"]


def test_a_voice_is_offered_where_the_model_has_some(
    pipeline: SpokenDialogPipeline, question: Path, tmp_path: Path
) -> None:
    def offered(pipeline: SpokenDialogPipeline) -> gr.Dropdown:
        return next(block for block in build_app(pipeline).blocks.values() if getattr(block, "elem_id", "") == "voice")

    write_audio(tmp_path / "slt.wav", 0.3 * torch.sin(torch.arange(12_000) / 9), 16_000)
    voiced = SpokenDialogPipeline(pipeline.parts, pipeline.folders, SHORT, voices=tmp_path)
    assert offered(pipeline).visible is False
    assert offered(voiced).visible and offered(voiced).choices[1:] == [("slt", "slt")]
    own, chosen = (steps(voiced, question, voice)[-1]["sound"]["value"][1] for voice in ("", "slt"))
    assert own.shape == chosen.shape and (own != chosen).any()


# What is drawn


def test_stage_times_are_drawn_to_scale() -> None:
    bar = stage_bar({"transcribe": 0.5, "speak<": 1.5}, reply_seconds=4.0)
    assert "flex:0.5" in bar and "flex:1.5" in bar
    assert "speak&lt; 1.50 s" in bar and "2.00 s for a reply of 4.0 s" in bar


def test_the_picture_shows_where_the_energy_is() -> None:
    def brightest_row(hertz: float) -> float:
        tone = 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(16_000) / 16_000)
        picture = reply_picture(Waveform(tone, 16_000), "a tone").astype(float)
        middle = picture[:, picture.shape[1] // 2].sum(axis=-1)[120:-80]  # without the text above and below
        return float(middle.argmax()) / len(middle)

    assert brightest_row(3_000) < brightest_row(500) - 0.2  # higher up


def test_long_replies_make_taller_pictures() -> None:
    noise = Waveform(torch.rand(16_000), 16_000)
    assert reply_picture(noise, "word " * 60).shape[0] > reply_picture(noise, "word").shape[0]


def test_prices_in_a_picture_are_no_formulas() -> None:
    noise = Waveform(torch.rand(16_000), 16_000)
    assert reply_picture(noise, r"it's $5, not $\frac").ndim == 3


# In a browser


@pytest.fixture
def browser(require_system_packages: Callable[..., None]) -> Iterator[WebDriver]:
    require_system_packages("chromium", "chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for switch in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1320,1000"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))) as opened:
        yield opened


def until(find: Callable[[], Found]) -> Found:
    """What `find` finds, as soon as it is not empty."""
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + WAIT
    while True:
        with contextlib.suppress(WebDriverException):  # the page is being redrawn
            if found := find():
                return found
        assert time.monotonic() < end, "the page did not change in time"
        time.sleep(0.2)


def test_a_question_is_typed_and_a_file_uploaded_in_a_browser(page: str, browser: WebDriver, question: Path) -> None:
    def elements(css: str) -> list[WebElement]:
        return browser.find_elements("css selector", css)

    def bubbles() -> list[str]:
        return [
            element.text for element in elements("#conversation [data-testid=user], #conversation [data-testid=bot]")
        ]

    browser.get(page)
    until(lambda: elements(".talk-button"))  # it moves what is below it
    until(lambda: elements("#question button[aria-label='Upload file']"))[0].click()
    time.sleep(2)  # as somebody who looks for a file: from the microphone to files is an input to gradio, of nothing
    until(lambda: elements("#question input[type=file]"))[0].send_keys(str(question))
    until(lambda: len(bubbles()) == 2)
    (link,) = until(lambda: elements("#reply audio") and elements("#reply a[download]"))
    assert (link.get_attribute("href") or "").endswith(".wav")
    assert until(lambda: [image for image in elements("#picture img") if image.get_property("naturalWidth")])

    until(lambda: elements("#typed textarea"))[0].send_keys("hello there\n")
    until(lambda: len(bubbles()) == 4)
    assert bubbles()[2] == "hello there" and all(bubbles())
    requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 10
    assert [url for url in urls if not url.startswith((page, "data:", "blob:"))] == []


SPY = """
const Context = AudioContext;
window.AudioContext = class extends Context { constructor(options) { super(options); window.spied = this; } };
"""


def test_a_reply_is_heard_while_it_is_made(
    page: str, pipeline: SpokenDialogPipeline, browser: WebDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first chunk plays, under the words, while the server still works on the rest."""
    stream, rest = pipeline.stream, threading.Event()

    def halting(*arguments: Any, **options: Any) -> Iterator[StreamEvent]:
        for number, event in enumerate(stream(*arguments, **options)):
            yield event
            if number == 2:
                assert isinstance(event, SpokenChunk) and rest.wait(WAIT)

    def elements(css: str) -> list[WebElement]:
        return browser.find_elements("css selector", css)

    monkeypatch.setattr(pipeline, "stream", halting)
    browser.get(page)
    until(lambda: elements("#typed textarea"))
    browser.execute_script(SPY)
    elements("#typed textarea")[0].send_keys("hello there\n")
    until(lambda: browser.execute_script("return usdmPlayer.chunks") == 1)
    until(lambda: browser.execute_script("return spied.state == 'running' && spied.currentTime > 0"))
    assert len(elements("#conversation [data-testid=bot]")) == 1
    assert not elements("#reply audio")
    rest.set()
    until(lambda: elements("#reply audio"))
    *_, reply = stream(text="hello there")
    assert isinstance(reply, SpokenReply) and reply.waveform is not None
    seconds = until(lambda: browser.execute_script("return usdmPlayer.chunks > 1 && usdmPlayer.seconds"))
    assert seconds == pytest.approx(len(reply.waveform) / reply.sample_rate)
    elements("#clear")[0].click()
    until(lambda: browser.execute_script("return spied.state == 'closed'"))
