"""The aligner that needs no download: word and phone times by PocketSphinx, against a synthesiser's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from operator import eq
from pathlib import Path

import pytest
import soundfile
import torch

from data_prep.alignment import Aligned, PocketSphinxAligner, align_corpus, boundary_error
from data_prep.alignment.pocketsphinx_phones import arpabet, flite_names
from data_prep.embedded_model.flite import Flite, Synthesised
from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.types import AlignedWord, InputError

FLITE_VOWELS = "aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw"
FLITE_CONSONANTS = "b ch d dh f g hh jh k l m n ng p r s sh t th v w y z zh"
FLITE_PHONES = {"pau", *FLITE_VOWELS.split(), *FLITE_CONSONANTS.split()}
TEXT = "hello there i would like a table for two people at seven tomorrow evening"

needs_flite = pytest.mark.system_packages("flite")


@pytest.fixture(scope="module")
def aligner() -> PocketSphinxAligner:
    return PocketSphinxAligner(transcribe=False)


def say(path: Path, text: str, voice: str = "slt") -> Synthesised:
    spoken = Flite(voice).speak(text)
    soundfile.write(path, spoken.samples, spoken.sample_rate)
    return spoken


def utterance(path: Path, text: str | None) -> Utterance:
    seconds = soundfile.info(path).duration
    return Utterance(path.stem, path, "s", "user", path.stem, 0, "train", text, seconds, (), (), ())


def write_noise(path: Path) -> None:
    noise = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    soundfile.write(path, noise.numpy(), 16_000)


def frames(phones: Sequence[AlignedWord], seconds: float) -> list[str]:
    """The phone at each 10 ms."""
    return [next(p.text for p in phones if t < p.end * 100) for t in range(int(seconds * 100) - 3)]


@needs_flite
@pytest.mark.parametrize("voice", ["slt", "rms"])
def test_words_and_phones_lie_where_the_synthesiser_put_them(
    tmp_path: Path, aligner: PocketSphinxAligner, voice: str
) -> None:
    spoken = say(tmp_path / "a.wav", TEXT, voice)
    (found,) = aligner([utterance(tmp_path / "a.wav", TEXT.capitalize() + ".")])
    assert isinstance(found, Aligned)
    assert [word.text for word in found.words] == TEXT.capitalize().split()
    error = boundary_error([(found.words, spoken.words)])
    assert error is not None and error.median < 12 and error.within[50] > 0.9  # milliseconds

    assert found.phones[0].text == found.phones[-1].text == "pau" and found.phones[0].start == 0.0
    starts, ends = [phone.start for phone in found.phones], [phone.end for phone in found.phones]
    assert starts[1:] == ends[:-1] and spoken.samples.size / spoken.sample_rate - ends[-1] < 0.02
    assert {phone.text for phone in found.phones} <= FLITE_PHONES
    assert found.pronunciation == tuple(phone.text for phone in found.phones if phone.text != "pau")
    ours, theirs = (frames(phones, ends[-1]) for phones in (found.phones, spoken.phones))
    assert sum(map(eq, ours, theirs)) / len(ours) > 0.8


@needs_flite
def test_what_is_found_does_not_depend_on_what_was_heard_before(tmp_path: Path, aligner: PocketSphinxAligner) -> None:
    say(tmp_path / "a.wav", "where is the station", "rms")
    say(tmp_path / "b.wav", "a quiet morning", "slt")
    pair = [utterance(tmp_path / "a.wav", "where is the station"), utterance(tmp_path / "b.wav", "a quiet morning")]
    assert aligner(pair) == aligner(pair[::-1])[::-1]


@needs_flite
def test_any_word_is_said_and_what_cannot_be_is_reported(tmp_path: Path, aligner: PocketSphinxAligner) -> None:
    spoken = say(tmp_path / "a.wav", "we met the zorblax at six thirty near the well known bridge")
    (found,) = aligner([utterance(tmp_path / "a.wav", "We met the Zorblax, at 6:30, дом near the well-known bridge!")])
    assert isinstance(found, Aligned)
    we, met, the, zorblax, at, time, house, near, _, known, bridge = found.words
    assert (zorblax.text, time.text, known.text) == ("Zorblax", "6:30", "well-known")
    true = spoken.words
    for word, first, last in ((zorblax, 3, 3), (time, 5, 6), (known, 9, 10), (bridge, 11, 11)):
        assert (word.start, word.end) == pytest.approx((true[first].start, true[last].end), abs=0.06)
    said = [phone.text for phone in found.phones if zorblax.start <= phone.start < zorblax.end]
    assert said == [phone.text for phone in Flite("kal16").speak("zorblax").phones if phone.text != "pau"]
    assert (found.unknown, found.interpolated) == (("дом",), ("дом",))
    assert (house.start, house.end) == (time.end, near.start)


@needs_flite
@pytest.mark.parametrize("transcribe", [False, True])
def test_a_corpus_with_noise_and_without_text(tmp_path: Path, transcribe: bool) -> None:
    rows = []
    for name, text in (("clear", "the weather is fine today"), ("noise", "hello"), ("spoken", None), ("hiss", None)):
        sound = tmp_path / f"{name}.wav"
        if name in ("clear", "spoken"):
            say(sound, text or "please call the doctor tomorrow morning")
        else:
            write_noise(sound)
        facts = {"speaker": "s", "role": "user", "dialog": name, "turn": 0, "split": "train", "sample_rate": 16_000}
        seconds = soundfile.info(sound).duration
        rows.append({"id": name, "audio": sound.name, "text": text, "duration": seconds, **facts})
    rows[0]["pronunciation"] = ["by", "rule"]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make = partial(PocketSphinxAligner, transcribe=transcribe)
    settings = dict(shard_utterances=9, processes=1)
    with pytest.raises(InputError, match="1 of 2 utterances could not be aligned"):
        align_corpus(str(tmp_path), make, str(tmp_path / "out"), max_failed_share=0.4, **settings)
    report = align_corpus(str(tmp_path), make, str(tmp_path / "out"), max_failed_share=0.5, **settings)
    assert (report.aligned, report.failed, report.without_text, report.heard) == (1, 1, 2, int(transcribe))
    problems = {row["id"]: row for row in map(json.loads, (tmp_path / "out/alignment_problems.jsonl").open())}
    assert set(problems) == ({"noise", "hiss"} if transcribe else {"noise"})
    assert "does not find the text" in problems["noise"]["failed"]

    clear, noise, spoken, hiss = read_speech_corpora([tmp_path / "out"])
    assert len(clear.words) == 5 and len(clear.phones) > 10
    assert clear.pronunciation[:2] == ("dh", "ax") and "by" not in clear.pronunciation
    assert noise.words == noise.phones == hiss.phones == hiss.pronunciation == ()
    assert spoken.text is None and spoken.words == ()  # what a recogniser hears is no transcript
    if transcribe:
        assert "d aa k t er" in " ".join(spoken.pronunciation)
        assert {phone.text for phone in spoken.phones} <= FLITE_PHONES
    else:
        assert spoken.phones == spoken.pronunciation == ()


@pytest.mark.parametrize(
    ("found", "said", "names"),
    [
        ("B AH N AE N AH", "b ax n ae n ax", "b ax n ae n ax"),
        ("AH N D AH N", "ah n d ah n", "ah n d ah n"),
        ("B AH K AH M", "b ih k ah m", "b ax k ah m"),  # the second AH is the second vowel, not flite's first ah
        ("AH", "ey", "ax"),
        ("DH IY", "dh ax", "dh iy"),  # of two pronunciations the one that was heard
    ],
)
def test_phones_in_flite_s_names(found: str, said: str, names: str) -> None:
    assert flite_names(found.split(), said.split()) == names.split()
    assert set(arpabet(names.split())) == set(found.split())


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(InputError, match=r"needs the package pocketsphinx.*usdm\[evaluate\]"):
        PocketSphinxAligner(transcribe=False)
