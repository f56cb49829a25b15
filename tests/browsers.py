"""Chromium without a window, for tests of the page: with a microphone that hears a file, or with none."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement

from usdm.audio import read_audio, resample, write_audio

WAIT = 60.0  # seconds for the page to change
RATE = 48_000  # Hz, of the microphone
Found = TypeVar("Found")


@contextmanager
def browser(microphone: Path | None, *switches: str, size: tuple[int, int] = (1320, 1000)) -> Iterator[WebDriver]:
    """`microphone`: a WAV that it hears once, from when the page opens it; None: the person says no."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    hears = ["--use-fake-device-for-media-stream"]
    if microphone is not None:
        hears += ["--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={microphone}%noloop"]
    else:
        hears += ["--deny-permission-prompts"]
    always = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required")
    for switch in (*always, f"--window-size={size[0]},{size[1]}", *hears, *switches):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as opened:
        yield opened


def recording(path: Path, *parts: Path | float) -> Path:
    """What the microphone hears: files, and seconds of silence between them."""
    sounds = []
    for part in parts:
        if isinstance(part, Path):
            sound = read_audio(part)
            sounds.append(resample(sound.samples, sound.sample_rate, RATE))
        else:
            sounds.append(torch.zeros(round(part * RATE)))
    write_audio(path, torch.cat(sounds), RATE)
    return path


def until(find: Callable[[], Found], seconds: float = WAIT, tell: Callable[[], object] = str) -> Found:
    """What `find` finds, as soon as it is not empty. `tell`: what to say of it if it never is."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(WebDriverException):  # the page is being redrawn
            if found := find():
                return found
        assert time.monotonic() < end, f"the page did not change in time: {tell()}"
        time.sleep(0.1)


class Page:
    """The page in a browser."""

    def __init__(self, driver: WebDriver, url: str) -> None:
        self.driver = driver
        driver.get(url)
        until(lambda: self.find(".talk-button"))

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", css)

    def find(self, css: str) -> WebElement:
        return self.driver.find_element("css selector", css)

    def click(self, css: str) -> None:
        """As soon as nothing lies over it."""
        until(lambda: self.find(css).click() or True)

    def js(self, expression: str) -> Any:
        """`talk` is the element, `session` its conversation."""
        start = "const talk = document.querySelector('usdm-talk'), session = talk.session;"
        return self.driver.execute_script(f"{start} return {expression}")

    def turns(self) -> list[dict[str, Any]]:
        """As the page knows them, `sound` as its number of samples."""
        turns: list[dict[str, Any]] = self.js("session.turns.map(turn => ({...turn, sound: turn.sound.length}))")
        return turns

    def state(self) -> tuple[object, ...]:
        """To be told when a test fails."""
        return self.text("status"), self.text("complaint"), [{**turn, "units": 0} for turn in self.turns()]

    def text(self, part: str) -> str:
        return self.find(f".talk-{part}").text
