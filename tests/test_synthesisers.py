"""Synthesisers under one name: what they say, when each word is said, and what happens where they are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.embedded_model import festival, pico
from data_prep.embedded_model.synthesisers import SPEAKERS, check_speakers, speak_as
from usdm.tokens.spoken_text import spoken_words
from usdm.types import InputError

TEXT = "i'd like to book a table in san jose, on the fourth of march. it's for two people."
RHVOICE = pytest.mark.system_packages("librhvoice5", "rhvoice-english")
ONE_EACH = [
    pytest.param("flite-kal16", marks=pytest.mark.system_packages("flite")),
    pytest.param("espeak-en-us+f2", marks=pytest.mark.system_packages("espeak-ng")),
    pytest.param("rhvoice-bdl", marks=RHVOICE),
    pytest.param("pico-en-GB", marks=pytest.mark.system_packages("libttspico-utils")),
    pytest.param("festival-ked", marks=pytest.mark.system_packages("festival", "festvox-kdlpc16k")),
]


@pytest.mark.parametrize("speaker", ONE_EACH)
def test_every_word_is_said_in_its_time(speaker: str) -> None:
    spoken = speak_as(speaker, TEXT, np.random.default_rng(0))
    seconds = len(spoken.samples) / spoken.sample_rate
    assert spoken.samples.dtype == np.int16
    assert 3 < seconds < 9
    assert np.abs(spoken.samples.astype(float)).max() > 3000
    if speaker.startswith("pico"):  # its command tells no times
        assert spoken.words == ()
        return
    assert [word.text for word in spoken.words] == spoken_words(TEXT)
    bounds = [0.0, *(bound for word in spoken.words for bound in (word.start, word.end)), seconds + 0.01]
    assert bounds == pytest.approx(sorted(bounds), abs=1e-6)
    assert all(word.end > word.start for word in spoken.words)


@pytest.mark.parametrize("speaker", ONE_EACH)
def test_tempo_is_drawn_and_slowed_on_demand(speaker: str) -> None:
    drawn = [speak_as(speaker, TEXT, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert len(drawn[1].samples) == pytest.approx(len(drawn[0].samples), rel=3e-3)  # eSpeak's voice flutters
    assert len(drawn[2].samples) != pytest.approx(len(drawn[0].samples), rel=1e-2)
    slow = speak_as(speaker, TEXT, np.random.default_rng(0), speed=1.25)
    assert 1.08 < len(slow.samples) / len(drawn[0].samples) < 1.4  # pauses may keep their length


@pytest.mark.parametrize("speaker", ["flite-kal16", "flite-rms"])
@pytest.mark.system_packages("flite")
def test_flite_says_a_text_in_the_same_way_whatever_it_said_before(speaker: str) -> None:
    texts = ["hello there.", "seven o'clock is fine.", "how are you today?"]
    there, back = (
        {text: speak_as(speaker, text, np.random.default_rng(0)).samples for text in order}
        for order in (texts, texts[::-1])
    )
    assert all(np.array_equal(there[text], back[text]) for text in texts)


@pytest.mark.parametrize(
    "speaker",
    ["flite-nobody", pytest.param("rhvoice-nobody", marks=RHVOICE), "pico-xx", "festival-rab", "nothing-at-all"],
)
def test_an_unknown_speaker_is_named_with_those_there_are(speaker: str) -> None:
    name = speaker if speaker.startswith("nothing") else speaker.partition("-")[2]
    with pytest.raises(InputError, match=f"Unknown .*'{name}': choose one of"):
        check_speakers([speaker])
    assert speaker not in SPEAKERS


@pytest.mark.system_packages("festival", "festvox-kdlpc16k")
def test_festival_says_a_clitic_with_the_word_before_it() -> None:
    """Its own times of the `'s` in "let's" are 0 s to 0 s."""
    words = festival.speak("okay, let's do high life.", "ked").words
    assert [word.text for word in words] == ["okay", "let's", "do", "high", "life"]
    assert all(one.end <= two.start + 1e-6 for one, two in zip(words, words[1:], strict=False))


@pytest.mark.parametrize(("speak", "voice"), [(pico.speak, "en-US"), (festival.speak, "ked")])
def test_a_program_that_is_not_there_names_its_package(
    speak: object, voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"install the Debian packages? (libttspico-utils|festival)"):
        speak("hello.", voice)  # type: ignore[operator]
