"""The page's open microphone in a real browser, with the embedded model. Loopback only."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsers import Page, browser, recording, until

from demo import launch
from usdm.chain import SpokenDialogPipeline

QUESTION = Path(__file__).resolve().parents[1] / "usdm" / "assets" / "question.wav"


@pytest.fixture(scope="module")
def pipeline() -> SpokenDialogPipeline:
    return SpokenDialogPipeline.from_pretrained("tiny")


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture(scope="module")
def url(pipeline: SpokenDialogPipeline, port: int) -> Iterator[str]:
    app = launch(pipeline, port=port, block=False)
    yield f"http://127.0.0.1:{port}/"
    app.close()


@pytest.fixture(autouse=True)
def _chromium(require_system_packages: Callable[..., None]) -> None:
    require_system_packages("chromium", "chromium-driver")


def test_a_question_is_spoken_and_its_answer_heard(url: str, pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    with browser(recording(tmp_path / "said.wav", 0.5, QUESTION, 30.0)) as driver:
        page = Page(driver, url)
        page.click(".talk-button")
        until(lambda: page.js("session.speaker.playedSamples") > 24_000)
        until(lambda: len(page.turns()) == 2 and all(turn["units"] for turn in page.turns()))
        asked, answered = page.turns()
        assert asked["role"] == "user" and len(asked["text"].split()) > 2
        assert answered["text"] and answered["text"] in page.text("log") and asked["text"] in page.text("log")
        assert answered["sound"] > 24_000
        print(asked, answered)
