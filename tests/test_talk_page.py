"""The page's open microphone in a real browser, with the embedded model. Loopback only."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import soundfile
from browsers import Page, browser, recording, until
from selenium.webdriver.common.keys import Keys

from demo import launch
from usdm.chain import SpokenDialogPipeline
from usdm.chain.requests import read_requests

REPOSITORY = Path(__file__).resolve().parents[1]
QUESTION = REPOSITORY / "usdm" / "assets" / "question.wav"
TALKATIVE = {"temperature": 1.2, "seed": 1}  # with which the answer to the question is a long one
SERVED = 60.0  # seconds until a server of its own process answers

# A microphone that hears what the test plays into it, when the test wants.
MICROPHONE = """
const context = new AudioContext(), heard = context.createMediaStreamDestination();
navigator.mediaDevices.getUserMedia = async (asked) => ((window.asked = asked), heard.stream);
window.say = async (file) => {
  const bytes = Uint8Array.from(atob(file), (character) => character.charCodeAt(0));
  const source = context.createBufferSource();
  source.buffer = await context.decodeAudioData(bytes.buffer);
  source.connect(heard);
  source.start();
};
"""


@pytest.fixture(scope="module")
def pipeline() -> SpokenDialogPipeline:
    return SpokenDialogPipeline.from_pretrained("tiny")


@pytest.fixture(scope="module")
def url(pipeline: SpokenDialogPipeline) -> Iterator[str]:
    port = free_port()
    app = launch(pipeline, port=port, block=False)
    yield f"http://127.0.0.1:{port}/"
    app.close()


@pytest.fixture(autouse=True)
def _chromium(require_system_packages: Callable[..., None]) -> None:
    require_system_packages("chromium", "chromium-driver")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.slow
def test_a_question_is_spoken_and_its_answer_heard(url: str, tmp_path: Path) -> None:
    with browser(recording(tmp_path / "said.wav", 0.5, QUESTION, 30.0)) as driver:
        page = Page(driver, url)
        page.click(".talk-button")
        until(lambda: page.text("status") == "Listening …")
        until(lambda: page.js("session.speaker.playedSamples") > 24_000, tell=page.state)
        until(lambda: len(page.turns()) == 2 and all(turn["units"] for turn in page.turns()))
        asked, answered = page.turns()
        assert asked["role"] == "user" and "restaurant" in asked["text"]
        assert answered["text"] in page.text("log") and asked["text"] in page.text("log")
        until(lambda: page.js("session.speaker.playedSamples") == answered["sound"])  # all of it
        until(lambda: page.text("status") == "Your turn: speak.")
        page.click(".talk-button")
        assert page.text("status") == "Hung up." and len(page.turns()) == 2

        # The chain of the turn, another answer from the transcript on, and all of it to take away.
        page.click(".talk-chain summary")
        page.click("[data-play=said]")
        until(lambda: page.js("session.speaker.isPlaying"))
        box = page.find("#chain-transcript")
        box.clear()
        box.send_keys("i need a taxi please")
        page.click("[data-again=transcript]")
        until(lambda: page.turns()[0]["text"] == "i need a taxi please")
        second = page.turns()[1]
        assert len(page.turns()) == 2 and second["text"] != answered["text"] and second["units"] and second["sound"]
        box = page.find("#chain-reply")
        box.clear()
        box.send_keys("good bye")
        page.click("[data-again=reply]")
        until(lambda: page.turns()[1]["text"] == "good bye")
        assert page.turns()[0]["text"] == "i need a taxi please"
        assert page.turns()[1]["units"] != second["units"]
        page.click(".talk-delete")
        assert page.turns() == [] and not page.find(".talk-save").is_enabled()


@pytest.mark.slow
def test_speaking_stops_the_reply_and_cuts_the_history(url: str) -> None:
    spoken = base64.b64encode(QUESTION.read_bytes()).decode()
    with browser(None) as driver:
        page = Page(driver, url)
        driver.execute_script(MICROPHONE)
        for name, value in TALKATIVE.items():
            driver.execute_script("document.querySelector(`[name=${arguments[0]}]`).value = arguments[1]", name, value)
        page.js("talk.piece('settings').onchange()")
        page.click(".talk-button")
        until(lambda: page.js("session.isOpen"))
        assert driver.execute_script("return asked.audio.echoCancellation") is True
        driver.execute_script("say(arguments[0])", spoken)
        until(lambda: page.js("session.speaker.playedMs > 300"))
        driver.execute_script("say(arguments[0])", spoken)
        until(lambda: any(turn["state"] == "cut" for turn in page.turns()), tell=page.state)
        assert not page.js("session.speaker.isPlaying")  # at once
        until(lambda: len(page.turns()) == 4 and page.turns()[3]["units"], tell=page.state)
        _, cut, again, answered = page.turns()
        assert cut["role"] == "agent" and words(cut["heard"]) == words(cut["text"])[: len(words(cut["heard"]))]
        assert len(cut["heard"]) < len(cut["text"])
        assert again["role"] == "user" and again["text"] and answered["text"]
        assert page.find(".talk-log .cut s").text.strip() == cut["text"][len(cut["heard"]) :].strip()


@pytest.mark.slow
def test_without_a_microphone_on_a_phone_and_by_keyboard(url: str) -> None:
    with browser(None, size=(390, 844)) as driver:
        page = Page(driver, url)
        driver.set_window_size(390, 844)
        page.js("talk.querySelector('.talk-button').focus()")
        driver.switch_to.active_element.send_keys(Keys.ENTER)
        until(lambda: "was not allowed" in page.text("complaint"))
        assert page.js("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.find(".talk-button").text == "Talk"
        reached = []
        for _ in range(8):
            driver.switch_to.active_element.send_keys(Keys.TAB)
            reached.append(driver.switch_to.active_element.text)
        assert "Voice and wording" in reached and "The chain of a turn" in reached
        partial = {"type": "input_audio_buffer.partial_transcript", "item_id": "mine", "transcript": "i need a"}
        driver.execute_script("document.querySelector('usdm-talk').session.receive(arguments[0])", partial)
        assert page.text("log") == "i need a"
        page.find("#typed textarea").send_keys("hello there\n")
        until(lambda: len(page.all("#conversation [data-testid=bot]")) == 1)


@contextmanager
def demo_process(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`usdm demo`, until it is killed."""
    command = [sys.executable, "-m", "usdm.cli.main", "demo", f"port={port}"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def is_served(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_four_pages_at_once_and_a_server_that_dies_in_mid_reply(tmp_path: Path) -> None:
    port = free_port()
    spoken = base64.b64encode(QUESTION.read_bytes()).decode()
    with browser(None) as driver:
        with demo_process(port):
            until(lambda: is_served(port), SERVED)
            pages = []
            for _ in range(4):
                driver.switch_to.new_window("tab")
                page = Page(driver, f"http://127.0.0.1:{port}/")
                driver.execute_script(MICROPHONE)
                page.click(".talk-button")
                until(lambda page=page: page.js("session.isOpen"))
                pages.append((driver.current_window_handle, page))
            for handle, _ in pages:
                driver.switch_to.window(handle)
                driver.execute_script("say(arguments[0])", spoken)
            for handle, page in pages:
                driver.switch_to.window(handle)
                until(lambda page=page: len(page.turns()) == 2 and page.turns()[1]["units"], tell=page.state)
                assert "restaurant" in page.turns()[0]["text"]
            driver.execute_script("say(arguments[0])", spoken)
            until(lambda: page.js("session.response"))
        until(lambda: "trying again" in page.text("complaint"))
        known = [turn["text"] for turn in page.turns()[:2]]
        with demo_process(port):
            until(lambda: page.js("session.isOpen"), SERVED)
            assert page.text("complaint") == "" and [turn["text"] for turn in page.turns()[:2]] == known
            num_turns = len(page.turns())
            driver.execute_script("say(arguments[0])", spoken)
            until(lambda: len(page.turns()) == num_turns + 2 and page.turns()[-1]["units"])


# Without a browser


def post(url: str, body: object, **headers: str) -> bytes:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
    with urlopen(request) as answer:
        data: bytes = answer.read()
        return data


def test_what_is_given_of_a_turn_stands(url: str) -> None:
    def made(**asked: object) -> dict:
        return json.loads(post(f"{url}page/again", asked))

    first = made(transcript="i need a taxi please")
    assert first["transcript"] == "i need a taxi please" and first["reply"] and first["said"] and first["audio"]
    second = made(transcript="i need a taxi please", reply="good bye")
    assert second["reply"] == "good bye" and second["said"] != first["said"]
    third = made(said=first["said"])
    assert (third["said"], third["audio"]) == (first["said"], first["audio"])
    assert made(said=first["said"], reference=base64.b64encode(QUESTION.read_bytes()).decode())["audio"]
    heard = made(heard=first["said"])
    assert heard["transcript"] and heard["reply"]
    from_both = made(heard=first["said"], transcript=heard["transcript"])
    assert from_both["reply"] == heard["reply"]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({}, "nothing to answer"),
        ({"transcript": " "}, "no words in the transcript"),
        ({"said": [10**6]}, "unit 1000000"),
        ({"said": []}, "said"),
        ({"transcript": "hello", "reference": "AAAA"}, "reference"),
        ({"transcript": "hello", "voice": "nobody"}, "nobody"),
        ({"tongue": "red"}, "tongue"),
    ],
)
def test_what_cannot_be_made_is_told(url: str, asked: dict, complaint: str) -> None:
    with pytest.raises(HTTPError) as refused:
        post(f"{url}page/again", asked)
    assert refused.value.code == 400 and complaint in json.loads(refused.value.read())["error"]["message"]


def test_other_pages_may_not_ask(url: str) -> None:
    for route in ("page/again", "page/conversation.zip"):
        with pytest.raises(HTTPError) as refused:
            post(f"{url}{route}", {"transcript": "hello"}, Origin="https://elsewhere.example")
        assert refused.value.code == 403


def test_a_conversation_is_taken_away(url: str, tmp_path: Path) -> None:
    sound = base64.b64encode(bytes(4800)).decode()
    turns = [
        {"role": "user", "text": "hello", "heard": "hello", "units": [1, 2], "audio": sound},
        {"role": "agent", "text": "hello, who is there", "heard": "hello,", "units": [3], "audio": sound},
        {"role": "user", "text": "me", "heard": "me"},
    ]
    data = post(f"{url}page/conversation.zip", {"turns": turns, "seed": 3})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(tmp_path)
    first, second = read_requests(tmp_path / "questions.jsonl")
    assert first.transcript == "hello" and first.audio and (tmp_path / first.audio).is_file() and first.seed == 3
    assert second.text == "me" and [turn.text for turn in second.history] == ["hello", "hello,"]
    assert soundfile.info(tmp_path / "conversation.wav").frames == 4800
    rows = [json.loads(line) for line in (tmp_path / "turns.jsonl").read_text().splitlines()]
    assert [row["units"] for row in rows] == [[1, 2], [3], []]
