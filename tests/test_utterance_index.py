"""Utterances by number: as the manifests have them, wherever they lie, whatever becomes of the manifests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from usdm.data.speech_corpus import read_speech_corpora
from usdm.data.utterance_index import UtteranceIndex
from usdm.types import InputError


def write(folder: Path, *rows: dict) -> Path:
    """A corpus of the given rows, with what every row has."""
    folder.mkdir(exist_ok=True)
    common = {"audio": "a.wav", "speaker": "s", "role": "user", "dialog": "d", "turn": 0, "split": "train", "text": "ä"}
    lines = [json.dumps({**common, "duration": 1.0, **row}, ensure_ascii=False) for row in rows]
    (folder / "manifest.jsonl").write_text("\n\n".join(lines), encoding="utf-8")  # empty lines, and none at the end
    return folder


@pytest.fixture
def corpora(tmp_path: Path) -> list[Path]:
    first = write(
        tmp_path / "a",
        {"id": "a0", "text": "grüße", "words": [["grüße", 0.0, 0.5]]},
        {"id": "a1", "split": "dev"},
        {"id": "a2", "duration": 2.5, "start": 3.0},
    )
    return [first, write(tmp_path / "b", {"id": "b0", "duration": 0.5}, {"id": "b1", "split": "dev", "duration": 4.0})]


def test_every_utterance_is_what_reading_the_corpora_gives(corpora: list[Path]) -> None:
    index = UtteranceIndex.read(corpora, "train")
    expected = list(read_speech_corpora(corpora, "train"))
    assert list(index) == expected and len(index) == 3
    assert [index[number] for number in (2, 0, 1)] == [expected[number] for number in (2, 0, 1)]
    assert index.durations.tolist() == [1.0, 2.5, 0.5]
    with pytest.raises(IndexError):
        index[3]


def test_some_are_taken_and_indexes_are_joined(corpora: list[Path]) -> None:
    train, dev = UtteranceIndex.read(corpora, "train"), UtteranceIndex.read(corpora, "dev")
    joined = UtteranceIndex.joined([train, dev])
    assert [each.id for each in joined] == ["a0", "a2", "b0", "a1", "b1"]
    taken = joined.take(np.array([4, 0]))
    assert [each.id for each in taken] == ["b1", "a0"] and taken.durations.tolist() == [4.0, 1.0]
    assert [each.id for each in joined.take(slice(1, 3))] == ["a2", "b0"]
    assert [each.id for each in UtteranceIndex.read(corpora, "train", lambda each: each.duration > 0.9)] == ["a0", "a2"]


def test_there_may_be_none(corpora: list[Path]) -> None:
    for once in (False, True):
        none = UtteranceIndex.read(corpora, "test", once=once)
        assert len(none) == 0 and list(none) == [] and none.durations.shape == (0,)
    assert len(UtteranceIndex.joined([none, UtteranceIndex.read(corpora, "dev")])) == 2


def test_of_those_that_share_a_sound_the_last_stands_in_the_first_s_place(tmp_path: Path) -> None:
    rows = [{"id": "0", "audio": "x.wav"}, {"id": "1", "audio": "y.wav"}, {"id": "2", "audio": "x.wav"}]
    rows += [{"id": "3", "audio": "x.wav", "start": 1.0}, {"id": "4", "audio": "x.wav", "channel": 1}]
    corpus = write(tmp_path / "corpus", *rows)
    assert [each.id for each in UtteranceIndex.read([corpus], "train", once=True)] == ["2", "1", "3", "4"]
    other = write(tmp_path / "other", {"id": "5", "audio": "../corpus/x.wav"}, {"id": "6", "audio": "x.wav"})
    assert len(UtteranceIndex.read([corpus, other], "train", once=True)) == 6  # other files, as they are written


def test_a_manifest_that_is_replaced_meanwhile_does_no_harm(corpora: list[Path]) -> None:
    index, before = UtteranceIndex.read(corpora, "train"), list(read_speech_corpora(corpora, "train"))
    (corpora[0] / "new").write_text("{}\n")
    os.replace(corpora[0] / "new", corpora[0] / "manifest.jsonl")
    assert list(index) == before


def test_it_keeps_no_words_in_memory(corpora: list[Path]) -> None:
    index = UtteranceIndex.read([corpora[0]] * 500, "train")
    assert len(index) == 1000
    assert index._places.nbytes + index.durations.nbytes == 32 * len(index)


def test_what_is_no_corpus_is_refused(corpora: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/manifest\.jsonl: no such file"):
        UtteranceIndex.read([*corpora, tmp_path / "nowhere"], "train")
    with (corpora[1] / "manifest.jsonl").open("a") as manifest:
        manifest.write('\n{"id": "b2", "aud')
    with pytest.raises(InputError, match=r"b/manifest\.jsonl, line 4: not an utterance"):
        UtteranceIndex.read(corpora, "train")
    (corpora[1] / "manifest.jsonl").write_text('{"id": "b", "audio": "b.wav", "text": "hi", "duration": 1}\n')
    told = r"line 1: .*no speaker, role, dialog, turn, split; `usdm import_corpus source=jsonl`"
    with pytest.raises(InputError, match=told):
        UtteranceIndex.read(corpora, "train")
