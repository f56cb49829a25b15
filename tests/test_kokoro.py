"""Kokoro's phonemes, voices and inputs; its network is stood in for, since no package of the tests has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_prep.embedded_model.kokoro import SAMPLE_RATE, Kokoro
from data_prep.embedded_model.synthesisers import speak_as
from usdm.types import InputError

pytestmark = pytest.mark.system_packages("espeak-ng")


class Network:
    """Takes what the ONNX export takes, and gives a tenth of a second a symbol, as loud as the voice's first number."""

    def __init__(self) -> None:
        self.given: dict[str, np.ndarray] = {}

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in ("input_ids", "style", "speed")]

    def run(self, outputs: Sequence[str] | None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.given = inputs
        count = inputs["input_ids"].shape[1] - 2
        return [np.full((1, count * SAMPLE_RATE // 10), inputs["style"][0, 0], dtype=np.float32)]


@pytest.fixture
def kokoro(tmp_path: Path) -> Kokoro:
    """With two voices whose numbers are all 0.1 and 0.3."""
    (tmp_path / "voices").mkdir()
    for name, value in (("af_one", 0.1), ("bm_two", 0.3)):
        np.full((60, 256), value, dtype=np.float32).tofile(tmp_path / "voices" / f"{name}.bin")
    symbols = {symbol: number for number, symbol in enumerate("$ ,.?AIOQWYabdefhijklmnpstuvwzæðŋɑɒɔəɛɜɡɪɹʃʊʌʒʤʧˈˌːθᵊT")}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": symbols}}))
    kokoro = Kokoro(tmp_path)
    kokoro.__dict__["_session"] = Network()
    return kokoro


def test_phonemes_are_written_as_kokoro_learnt_them(kokoro: Kokoro) -> None:
    assert kokoro.phonemes("can i have a large iced latte, please?") == "kæn ˈI hæv ə lˈɑɹʤ ˈIst lˈɑtA, plˈiz?"
    assert kokoro.phonemes("hello there.", british=True) == "həlˈQ ðˈAə."


def test_a_voice_may_be_the_mean_of_two(kokoro: Kokoro) -> None:
    for voice, loudness in (("af_one", 0.1), ("bm_two", 0.3), ("af_one*bm_two", 0.2)):
        spoken = kokoro.speak("hello.", voice, speed=1.5)
        np.testing.assert_allclose(spoken.samples / 32767, loudness, atol=1e-4)
    given = kokoro._session.given
    assert given["input_ids"][0, [0, -1]].tolist() == [0, 0] and given["speed"].tolist() == [1.5]
    assert len(spoken.samples) == (given["input_ids"].shape[1] - 2) * SAMPLE_RATE // 10


def test_what_kokoro_cannot_say_is_told(kokoro: Kokoro, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown Kokoro voice 'af_three'"):
        kokoro.speak("hello.", "af_one*af_three")
    with pytest.raises(InputError, match="Kokoro says 1 to 500"):
        kokoro.speak("hello " * 200, "af_one")
    with pytest.raises(InputError, match="neither a folder nor to be had"):
        speak_as("kokoro-af_one", "hello.", np.random.default_rng(0), kokoro_model=tmp_path / "nowhere")
