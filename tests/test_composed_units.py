"""Units of texts that nobody said, from pieces of speech."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.embedded_model.composed_units import ComposedReport, compose_units
from data_prep.speech_corpus import Voices, synthesize_corpus
from usdm.chain.locations import bundle_folder
from usdm.data.extraction import extract_units
from usdm.data.unit_corpus import UnitCorpus, UnitUtterance
from usdm.types import InputError

pytestmark = pytest.mark.system_packages("flite")
SAID = "i need a table for two please."


def write_dialog(path: Path, name: str, user: str, agent: str | None) -> Path:
    turns = [{"role": "user", "text": user}] + ([{"role": "agent", "text": agent}] if agent else [])
    path.write_text(json.dumps({"dialog": name, "split": "train", "turns": turns}) + "\n")
    return path


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A user who says one sentence and an agent who says another, and their units."""
    folder = tmp_path_factory.mktemp("spoken")
    dialog = write_dialog(folder / "dialogs.jsonl", "a", SAID, "for what time?")
    voices = Voices(agents=("flite-rms",), user=("flite-kal16",), espeak_share=0.0)
    synthesize_corpus(str(dialog), str(folder / "speech"), voices=voices, processes=1, seed=0)
    extract_units([folder / "speech"], bundle_folder("tiny") / "units", str(folder / "units"))
    return str(folder / "speech"), str(folder / "units")


def compose(spoken: tuple[str, str], tmp_path: Path, user: str, agent: str | None = None) -> ComposedReport:
    dialog = write_dialog(tmp_path / "dialogs.jsonl", "b", user, agent)
    settings: dict[str, Any] = dict(
        agents=["flite-rms"], least_phones=5, shard_dialogs=10, max_failed_share=0.0, processes=1, seed=0
    )
    return compose_units(dialog, [spoken[0]], [spoken[1]], str(tmp_path / "composed"), **settings)


def rows(folder: str | Path) -> list[UnitUtterance]:
    return sorted(UnitCorpus(folder).utterances(), key=lambda row: row.turn)


def test_what_was_said_is_taken_whole(spoken: tuple[str, str], tmp_path: Path) -> None:
    compose(spoken, tmp_path, SAID, "for what time?")
    for made, said in zip(rows(tmp_path / "composed"), rows(spoken[1]), strict=True):
        assert (made.speaker, made.role) == (said.speaker, said.role)
        np.testing.assert_array_equal(made.units, said.units)
        np.testing.assert_array_equal(made.word_ends, said.word_ends)


def test_other_words_come_from_pieces(spoken: tuple[str, str], tmp_path: Path) -> None:
    report = compose(spoken, tmp_path, "please need two for a table.")
    (made,) = rows(tmp_path / "composed")
    (said, _) = rows(spoken[1])
    assert made.words == ("please", "need", "two", "for", "a", "table")
    spans = dict(zip(said.words, np.split(said.units, said.word_ends[:-1]), strict=True))
    for word, units in zip(made.words, np.split(made.units, made.word_ends[:-1]), strict=True):
        assert set(units.tolist()) & set(spans[word].tolist()), word
    assert report.phones_a_piece > 1.5


def test_a_sound_that_nobody_makes_is_told(spoken: tuple[str, str], tmp_path: Path) -> None:
    dialogs = tmp_path / "two.jsonl"
    lines = [
        write_dialog(tmp_path / "x.jsonl", name, text, None).read_text()
        for name, text in (("u", "two."), ("z", "judge."))
    ]
    dialogs.write_text("".join(lines))
    settings: dict[str, Any] = dict(least_phones=5, shard_dialogs=10, processes=1, seed=0)
    compose_all = partial(compose_units, dialogs, [spoken[0]], [spoken[1]], **settings)
    report = compose_all(str(tmp_path / "composed"), agents=[], max_failed_share=0.5)
    assert report.turns == 1
    assert [message.partition(":")[0] for message in report.failed] == ["z"]
    with pytest.raises(InputError, match="1 dialogs could not be composed, at most a share of 0.4 may fail: z"):
        compose_all(str(tmp_path / "strict"), agents=[], max_failed_share=0.4)
    with pytest.raises(InputError, match="kokoro-af_heart says nothing"):
        compose_all(str(tmp_path / "other"), agents=["kokoro-af_heart"], max_failed_share=0.5)
