"""Corpus preparation: spoken text, the domain, synthesised speech, recordings, the held-out set."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from kills import die, killed

from data_prep import speech_corpus
from data_prep.augment import SAMPLE_RATE, Variation, draw_variation, vary
from data_prep.embedded_model.dialog_text import prepare_dialogs
from data_prep.embedded_model.espeak import Espeak
from data_prep.embedded_model.flite import Flite
from data_prep.embedded_model.held_out import make_held_out
from data_prep.embedded_model.sentences import prepare_sentences
from data_prep.embedded_model.small_talk import INTENTS
from data_prep.recordings import import_recordings
from data_prep.speech_corpus import CorpusReport, Voices, synthesize_corpus
from usdm.data.speech_corpus import read_speech_corpora
from usdm.tokens.spoken_text import spoken_text, spoken_words
from usdm.types import InputError

needs_synthesisers = pytest.mark.system_packages("flite", "espeak-ng")


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("At 6:30 PM, for $20. OK!", "at six thirty p m, for twenty dollars. ok."),
        ("I am done at 7:00 pm", "i am done at seven p m."),
        ("It’s 7:00 already?", "it's seven o'clock already?"),
        ("Call 510-324-2000", "call five one zero, three two four, two zero zero zero."),
        ("the 3rd of 4.5 stars, 21%", "the third of four point five stars, twenty one percent."),
        ("'quoted' words ... here", "quoted words. here."),
        ("$3.50 & 105 more", "three dollars fifty and one hundred five more."),
        ("7:05", "seven oh five."),
        ("Is it in San José?", "is it in san jose?"),
        (
            "$1,250.50, 12,500 people",
            "one thousand two hundred fifty dollars fifty, twelve thousand five hundred people.",
        ),
        ("€3 or £1.5 million", "three euros or one point five million pounds."),
        ("1,000.5 or 1,2", "one thousand point five or one, two."),
        ("it's -5, or 5-7", "it's minus five, or five seven."),
        ("9" * 400 + ",000,000", " ".join(["nine"] * 400) + ", zero, zero."),
        ("", ""),
    ],
)
def test_spoken_text(written: str, spoken: str) -> None:
    assert spoken_text(written) == spoken
    assert spoken_text(spoken) == spoken  # nothing more to do


def test_spoken_words_are_without_punctuation() -> None:
    assert spoken_words("it's seven, isn't it?") == ["it's", "seven", "isn't", "it"]


def _dialog(name: str, *texts: str) -> str:
    speakers = ("user", "agent")
    turns = [{"speaker": speakers[index % 2], "text": text} for index, text in enumerate(texts)]
    return json.dumps({"dialog": name, "services": ["Food_1"], "turns": turns}) + "\n"


@pytest.fixture
def dialog_files(tmp_path: Path) -> tuple[str, str]:
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held_out.jsonl"
    lines = [
        _dialog(f"a{index}", "I want pizza.", "Which place?", "The red one.", "It is closed.") for index in range(4)
    ]
    lines.append(_dialog("b", "I want a zeppelin.", "Which place?", "The red pizza one.", "It is it."))
    train.write_text("".join(lines))
    held_out.write_text(_dialog("c", "I want pizza.", "Which one?", "I want red pizza.", "It is the red one."))
    return str(train), str(held_out)


def _prepare(files: tuple[str, str], folder: Path, **changes: object) -> list[dict]:
    arguments = dict(
        vocabulary_size=12, max_user_words=10, max_agent_words=10, max_train_exchanges=100, max_copies=2,
        max_train_occurrences=0, small_talk_copies=1, noise_turns=0, unknown_words_turns=0, unknown_words_recordings=[],
        dev_share=0.0, seed=0,
    )  # fmt: skip
    prepare_dialogs(*files, str(folder), **(arguments | changes))
    return [json.loads(line) for line in (folder / "dialogs.jsonl").read_text().splitlines()]


def test_the_domain_is_closed_and_the_held_out_text_unseen(dialog_files: tuple[str, str], tmp_path: Path) -> None:
    dialogs = _prepare(dialog_files, tmp_path / "out")
    domain = json.loads((tmp_path / "out/domain.json").read_text())
    words = set(domain["words"])
    trained = {turn["text"] for d in dialogs if d["split"] == "train" for turn in d["turns"] if turn["role"] == "user"}
    tested = {turn["text"] for d in dialogs if d["split"] == "test" for turn in d["turns"] if turn["role"] == "user"}
    assert all(set(spoken_words(turn["text"])) <= words for dialog in dialogs for turn in dialog["turns"])
    assert "zeppelin" not in words
    assert "i want red pizza." in tested
    assert not tested & trained
    assert domain["left_out"]["words outside the domain"] == 1
    assert domain["left_out"]["held-out user text that training has often"] == 1
    assert domain["left_out"]["copies"] == 4  # the same two exchanges in four dialogs, two of each kept
    for dialog in dialogs:
        assert [turn["role"] for turn in dialog["turns"]] == ["user", "agent"] * (len(dialog["turns"]) // 2)


def test_a_text_that_training_has_rarely_is_tested_instead(dialog_files: tuple[str, str], tmp_path: Path) -> None:
    def texts(limit: int) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {"train": set(), "test": set()}
        for dialog in _prepare(dialog_files, tmp_path / str(limit), max_train_occurrences=limit):
            found[dialog["split"]] |= {turn["text"] for turn in dialog["turns"] if turn["role"] == "user"}
        return found

    often, rarely = texts(3), texts(4)  # "i want pizza." is said four times
    assert "i want pizza." in often["train"] - often["test"]
    assert "i want pizza." in rarely["test"] - rarely["train"]


def test_no_text_is_both_trained_and_tested(dialog_files: tuple[str, str], tmp_path: Path) -> None:
    last_greeting = INTENTS["greeting"][0][-1]
    often_said = "".join(_dialog(f"e{index}", last_greeting, "Which place?") for index in range(6))
    strange = "".join(_dialog(f"f{index}", "A purple zeppelin flies.", "Which place?") for index in range(40))
    Path(dialog_files[0]).write_text(Path(dialog_files[0]).read_text() + often_said + strange)
    texts: dict[str, set[str]] = {"train": set(), "test": set()}
    for dialog in _prepare(dialog_files, tmp_path / "out", unknown_words_turns=40):
        texts[dialog["split"]] |= {turn["text"] for turn in dialog["turns"] if turn["role"] == "user"}
    assert last_greeting in texts["test"]
    assert not texts["train"] & texts["test"]


def test_what_is_not_understood_has_its_own_dialogs(dialog_files: tuple[str, str], tmp_path: Path) -> None:
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    for name in ("a.wav", "b.wav"):
        (recorded / name).touch()
    items = [{"audio": "a.wav", "text": "I LOVE ZEPPELINS"}, {"audio": "b.wav", "text": "pizza"}, {"audio": "c.wav"}]
    (recorded / "manifest.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    strange = _dialog("d", "A purple zeppelin flies.", "Which place?")
    Path(dialog_files[0]).write_text(Path(dialog_files[0]).read_text() + strange)
    dialogs = _prepare(
        dialog_files, tmp_path / "out", noise_turns=40, unknown_words_turns=5, unknown_words_recordings=[str(recorded)]
    )
    exchanges = [dialog["turns"] for dialog in dialogs if dialog["services"] == ["not understood"]]
    assert all("not understand" in agent["text"] for _, agent in exchanges)
    users = [user for user, _ in exchanges]
    assert [user["text"] for user in users[40:]] == ["a purple zeppelin flies.", "i love zeppelins."]
    assert {user["text"] for user in users[:40]} == {"..."}
    assert users[-1]["audio"] == str(recorded / "a.wav")
    assert {dialog["split"] for dialog in dialogs if "noise" in dialog["dialog"]} == {"train", "test"}
    with pytest.raises(InputError, match="unknown_words_recordings: .*nowhere: no such file or folder"):
        _prepare(dialog_files, tmp_path / "bad", unknown_words_recordings=[str(tmp_path / "nowhere")])
    (recorded / "b.wav").unlink()
    with pytest.raises(InputError, match="b.wav, which does not exist"):
        _prepare(dialog_files, tmp_path / "bad", unknown_words_recordings=[str(recorded)])


def test_small_talk_is_trained_as_often_as_asked(dialog_files: tuple[str, str], tmp_path: Path) -> None:
    def exchanges(copies: int, split: str) -> Counter[tuple[str, str]]:
        dialogs = _prepare(dialog_files, tmp_path / str(copies), small_talk_copies=copies)
        assert len({dialog["dialog"] for dialog in dialogs}) == len(dialogs)  # each copy is spoken anew
        talks = [d["turns"] for d in dialogs if d["split"] == split and d["services"] == ["small talk"]]
        return Counter((user["text"], agent["text"]) for user, agent in talks)

    once, thrice = exchanges(1, "train"), exchanges(3, "train")
    assert len(once) == sum((len(users) - 1) * len(agents) for users, agents in INTENTS.values())
    assert set(once.values()) == {1}
    assert thrice == Counter({pair: 3 for pair in once})
    assert exchanges(3, "test") == Counter((users[-1], agents[0]) for users, agents in INTENTS.values())


def test_prepare_dialogs_repeats_itself_and_names_bad_input(dialog_files: tuple[str, str], tmp_path: Path) -> None:
    assert _prepare(dialog_files, tmp_path / "one") == _prepare(dialog_files, tmp_path / "two")
    with pytest.raises(InputError, match=r"dev_share: 0\.0 then, 1\.0 now"):  # not replaced without a word
        _prepare(dialog_files, tmp_path / "one", dev_share=1.0)
    others = _prepare(dialog_files, tmp_path / "one", dev_share=1.0, overwrite=True)
    assert others != _prepare(dialog_files, tmp_path / "two")
    with pytest.raises(InputError, match="train_file: .*nowhere.jsonl: no such file or folder"):
        _prepare((str(tmp_path / "nowhere.jsonl"), dialog_files[1]), tmp_path / "three")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"dialog": "x"}\n')
    with pytest.raises(InputError, match="line 1 is no dialog"):
        _prepare((str(broken), dialog_files[1]), tmp_path / "three")


@pytest.fixture
def text_files(tmp_path: Path) -> list[str]:
    novel, examples = tmp_path / "novel.txt", tmp_path / "examples.txt"
    paragraphs = [
        'Mr. Bennet was\n_so_ odd. "Was he?" She\nlaughed at 2 of them!',
        "No end here",
        "Too short. She laughed at 2 of them! Book it now please.",
    ]
    novel.write_text("\n\n".join(paragraphs))
    examples.write_text("".join(f"this is example {number}.\n" for number in range(30)))
    return [str(novel), str(examples)]


@pytest.fixture
def prepared(tmp_path: Path) -> str:
    """A folder of `prepare_dialogs`."""
    dialogs = [
        {"split": "test", "turns": [{"role": "user", "text": "yes. book it now please."}]},
        {"split": "train", "turns": [{"role": "user", "text": "no end here."}]},
    ]
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / "dialogs.jsonl").write_text("".join(json.dumps(dialog) + "\n" for dialog in dialogs))
    (folder / "domain.json").write_text(json.dumps({"words": ["this", "is", "no", "end", "here", "so"]}))
    return str(folder)


def _sentences(files: list[str], prepared: str, folder: Path, **changes: object) -> list[dict]:
    arguments = dict(sentences=6, min_words=3, max_words=6, not_understood_share=0.0, dev_share=0.0, seed=0) | changes
    report = prepare_sentences(files, prepared, str(folder), **arguments)  # type: ignore[arg-type]
    dialogs = [json.loads(line) for line in (folder / "dialogs.jsonl").read_text().splitlines()]
    assert sum(report.sentences.values()) == len({dialog["dialog"] for dialog in dialogs}) == len(dialogs)
    assert report.not_understood == len([dialog for dialog in dialogs if len(dialog["turns"]) == 2])
    assert json.loads((folder / "sentences.json").read_text())["words"] == report.words
    return dialogs


def test_sentences_are_drawn_alike_from_every_file(text_files: list[str], prepared: str, tmp_path: Path) -> None:
    drawn = _sentences(text_files, prepared, tmp_path / "one")
    assert [[turn["role"] for turn in dialog["turns"]] for dialog in drawn] == [["user"]] * 6
    texts = {dialog["turns"][0]["text"] for dialog in drawn}
    assert texts > {"mister bennet was so odd.", "she laughed at two of them.", "no end here."}
    assert len([text for text in texts if text.startswith("this is example ")]) == 3
    assert {dialog["split"] for dialog in drawn} == {"train"}
    assert _sentences(text_files, prepared, tmp_path / "two") == drawn
    assert _sentences(text_files, prepared, tmp_path / "three", seed=1) != drawn
    assert {dialog["split"] for dialog in _sentences(text_files, prepared, tmp_path / "four", dev_share=1.0)} == {"dev"}


def test_a_file_with_few_sentences_gives_them_all(text_files: list[str], prepared: str, tmp_path: Path) -> None:
    drawn = _sentences(text_files, prepared, tmp_path / "one", sentences=20)
    assert len([dialog for dialog in drawn if dialog["turns"][0]["text"].startswith("this is example ")]) == 17


def test_texts_are_read_from_what_data_sets_publish(prepared: str, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "Lines have texts.", "split": "train"}) + "\n")
        file.write(json.dumps({"text": "Never learnt from.", "split": "test"}) + "\n")
        turns = [{"speaker": "user", "text": "Users speak too."}, {"speaker": "agent", "text": "Agents stay out."}]
        file.write(json.dumps({"turns": turns}) + "\n")
    (tmp_path / "table.csv").write_text('text,category\n"Yes, columns as well.",a\n')
    intents = {"train": [["intents have names", "a"]], "oos_test": [["tests are left out", "oos"]]}
    (tmp_path / "intents.json").write_text(json.dumps(intents))
    files = [str(tmp_path / name) for name in ("rows.jsonl.gz", "table.csv", "intents.json")]
    drawn = _sentences(files, prepared, tmp_path / "out", sentences=4)
    assert {dialog["turns"][0]["text"] for dialog in drawn} == {
        "lines have texts.", "users speak too.", "yes, columns as well.", "intents have names.",
    }  # fmt: skip
    with pytest.raises(InputError, match="intents.json is not laid out"):
        (tmp_path / "intents.json").write_text("[1]")
        _sentences(files, prepared, tmp_path / "other", sentences=1)
    with pytest.raises(InputError, match="files that end in"):
        _sentences([str(tmp_path / "out")], prepared, tmp_path / "third", sentences=1)


def test_strange_sentences_are_not_understood(text_files: list[str], prepared: str, tmp_path: Path) -> None:
    drawn = _sentences(text_files, prepared, tmp_path / "one", not_understood_share=1.0)
    answered = {dialog["turns"][0]["text"]: len(dialog["turns"]) == 2 for dialog in drawn}
    assert not answered.pop("no end here.")  # its words are the domain's
    assert all(answered.values())
    assert all("not understand" in dialog["turns"][1]["text"] for dialog in drawn if len(dialog["turns"]) == 2)


def test_sentences_that_cannot_be_had_are_named(text_files: list[str], prepared: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have 33 different sentences of 3 to 6 words, 34 are wanted"):
        _sentences(text_files, prepared, tmp_path / "out", sentences=34)  # one more is said in a test dialog
    with pytest.raises(InputError, match="text_files: .*nowhere.txt: no such file or folder"):
        _sentences([str(tmp_path / "nowhere.txt")], prepared, tmp_path / "out")
    with pytest.raises(InputError, match="at least one file"):
        _sentences([], prepared, tmp_path / "out")
    with pytest.raises(InputError, match="run `usdm prepare_dialogs` first"):
        _sentences(text_files, str(tmp_path), tmp_path / "out")
    Path(text_files[0]).write_bytes(b"caf\xe9 au lait.")
    with pytest.raises(InputError, match="no UTF-8 text"):
        _sentences(text_files, prepared, tmp_path / "out")


def test_variation_does_what_it_says() -> None:
    random = np.random.default_rng(0)
    tone = (10_000 * np.sin(2 * np.pi * 400 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.int16)
    clean = Variation(speed=1.0, reverberation=0.0, signal_to_noise=float("inf"), noise_colour=0.0, peak=0.5)
    sound = vary(tone, SAMPLE_RATE, clean, random)
    np.testing.assert_allclose(sound, tone / np.abs(tone).max() * 0.5, atol=1e-3)
    faster = vary(tone, SAMPLE_RATE, Variation(1.1, 0.0, float("inf"), 0.0, 0.5), random)
    assert len(faster) == pytest.approx(SAMPLE_RATE / 1.1, abs=2)
    peak = np.abs(np.fft.rfft(faster)).argmax() * SAMPLE_RATE / len(faster)
    assert peak == pytest.approx(440, abs=2)
    noisy = vary(tone, SAMPLE_RATE, Variation(1.0, 0.0, 10.0, 1.0, 0.5), random)
    ratio = 10 * np.log10(np.mean(sound**2) / np.mean((noisy - sound) ** 2))
    assert ratio == pytest.approx(10, abs=0.1)
    assert {draw_variation(random).reverberation > 0 for _ in range(30)} == {True, False}


@needs_synthesisers
def test_flite_knows_its_words_and_phones() -> None:
    spoken = Flite("kal16").speak("i'd like that that, at six o'clock?")
    assert [word.text for word in spoken.words] == ["i'd", "like", "that", "that", "at", "six", "o'clock"]
    assert spoken.sample_rate == SAMPLE_RATE
    times = [time for phone in spoken.phones for time in (phone.start, phone.end)]
    assert times == sorted(times)
    # The diphone voice cuts the last pause short; everything before it is where it says.
    assert times[-2] < len(spoken.samples) / SAMPLE_RATE < times[-1] + 0.05
    with pytest.raises(InputError, match="Unknown flite voice 'bob'"):
        Flite("bob")
    with pytest.raises(InputError, match="no word"):
        Flite("kal16").speak("...")


@needs_synthesisers
def test_espeak_knows_its_words() -> None:
    espeak = Espeak()
    spoken = espeak.speak("that is the one, i'd like to go.", "en-us+f2")
    assert [word.text for word in spoken.words] == ["that", "is", "the", "one", "i'd", "like", "to", "go"]
    assert spoken.words[-1].end == pytest.approx(len(spoken.samples) / spoken.sample_rate)
    with pytest.raises(InputError, match="Unknown eSpeak voice"):
        espeak.speak("hello.", "no-such-voice")


@needs_synthesisers
def test_a_synthesised_corpus_can_be_read(dialog_files: tuple[str, str], tmp_path: Path) -> None:
    _prepare(dialog_files, tmp_path)
    dialogs = (tmp_path / "dialogs.jsonl").read_text().splitlines()
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join([dialogs[0], dialogs[-1]]) + "\n")
    voices = Voices(agents=("flite-kal16",), user=("flite-kal16",), espeak_share=0.5)
    report = synthesize_corpus(str(few), str(tmp_path / "speech"), voices=voices, processes=1, seed=3)
    utterances = list(read_speech_corpora([tmp_path / "speech"]))
    assert (len(utterances), report.failed) == (report.turns, ())
    for utterance in utterances:
        samples, sample_rate = soundfile.read(utterance.audio)
        assert sample_rate == SAMPLE_RATE
        assert len(samples) / sample_rate == pytest.approx(utterance.duration, abs=1e-3)
        assert [word.text for word in utterance.words] == spoken_words(utterance.text or "")
        assert utterance.words[-1].start < utterance.duration
        assert utterance.pronunciation


SAYINGS = {"a": "hello there.", "b": "how are you?", "c": "fine.", "d": "good bye."}


def write_sayings(path: Path, names: str, **texts: str) -> Path:
    """Dialogs of one exchange each; the agent always says the same."""
    agent = {"role": "agent", "text": "well."}
    rows = [
        {"dialog": name, "split": "train", "turns": [{"role": "user", "text": (SAYINGS | texts)[name]}, agent]}
        for name in names
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def speak(dialogs: Path, folder: Path, *, user: str = "flite-kal16", seed: int = 0, **options: Any) -> CorpusReport:
    voices = Voices(agents=("flite-kal16",), user=(user,), espeak_share=0.0)
    return synthesize_corpus(str(dialogs), str(folder), voices=voices, processes=1, seed=seed, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


@needs_synthesisers
def test_other_text_voices_or_seed_are_never_said_with_old_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_corpus, "_DIALOGS_PER_PART", 2)
    dialogs = write_sayings(tmp_path / "dialogs.jsonl", "abc")
    speak(dialogs, tmp_path / "speech")
    with monkeypatch.context() as patch:
        patch.setattr(speech_corpus, "check_speakers", None)
        speak(dialogs, tmp_path / "speech")  # all is said: nobody is tried again, which takes minutes
    with pytest.raises(
        InputError, match=r'voices\.user: \["flite-kal16"\] then, \["flite-rms"\] now\n.*overwrite=true'
    ):
        speak(dialogs, tmp_path / "speech", user="flite-rms")
    with pytest.raises(InputError, match="seed: 0 then, 1 now"):
        speak(dialogs, tmp_path / "speech", seed=1)
    write_sayings(dialogs, "abc", b="something quite different.")
    with pytest.raises(InputError, match="rows that are not in the input any more, or are others now: b;"):
        speak(dialogs, tmp_path / "speech")

    speak(dialogs, tmp_path / "speech", overwrite=True)  # the dialogs that changed, and their part alone
    speak(dialogs, tmp_path / "fresh")
    assert contents(tmp_path / "speech") == contents(tmp_path / "fresh")
    speak(dialogs, tmp_path / "speech", user="flite-rms", seed=1, overwrite=True)
    speak(dialogs, tmp_path / "rms", user="flite-rms", seed=1)
    assert contents(tmp_path / "speech") == contents(tmp_path / "rms")
    assert contents(tmp_path / "rms")["audio/b-0.flac"] != contents(tmp_path / "fresh")["audio/b-0.flac"]

    write_sayings(dialogs, "abca")
    with pytest.raises(InputError, match="line 4: dialog 'a' was there before"):
        speak(dialogs, tmp_path / "twice")


@needs_synthesisers
def test_corpora_share_the_dialogs_between_them(tmp_path: Path) -> None:
    dialogs = write_sayings(tmp_path / "dialogs.jsonl", "abcd")
    parts = ({"share": 0.3}, {"share": 0.7, "after": 0.3})
    spoken = []
    for number, part in enumerate(parts):
        speak(dialogs, tmp_path / str(number), **part)
        rows = (tmp_path / str(number) / "manifest.jsonl").read_text().splitlines()
        spoken.append({json.loads(row)["dialog"] for row in rows})
    assert all(spoken) and not spoken[0] & spoken[1] and spoken[0] | spoken[1] == set("abcd")
    with pytest.raises(InputError, match=r"after: 0\.3 then, null now"):
        speak(dialogs, tmp_path / "1", share=0.7)


@needs_synthesisers
def test_more_dialogs_cost_themselves_alone_and_a_kill_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_corpus, "_DIALOGS_PER_PART", 1)
    dialogs = write_sayings(tmp_path / "dialogs.jsonl", "ab")
    speak(dialogs, tmp_path / "speech")
    write_sayings(dialogs, "abcd")
    said, say = [], speech_corpus._Speaker._speak

    def say_or_die(speaker: Any, dialog: dict) -> list[dict]:
        said.append(dialog["dialog"])
        rows = say(speaker, dialog)
        return rows if said != ["c", "d"] else die()

    monkeypatch.setattr(speech_corpus._Speaker, "_speak", say_or_die)
    killed(lambda: speak(dialogs, tmp_path / "speech"))
    assert speak(dialogs, tmp_path / "speech").turns == 8 and said == ["d"]
    monkeypatch.undo()
    manifest = tmp_path / "speech/manifest.jsonl"
    speak(dialogs, tmp_path / "whole")
    ids = [row.id for row in read_speech_corpora([tmp_path / "speech"])]
    assert ids == ["a-0", "a-1", "b-0", "b-1", "c-0", "c-1", "d-0", "d-1"]
    assert manifest.read_bytes() == (tmp_path / "whole/manifest.jsonl").read_bytes()
    manifest.write_text(manifest.read_text().replace("}\n", ', "heard": true}\n'))
    speak(dialogs, tmp_path / "speech")
    assert '"heard": true' in manifest.read_text()  # nothing is new, so what others added stays


@needs_synthesisers
def test_a_dialog_that_cannot_be_said_is_told_and_tried_again(tmp_path: Path) -> None:
    dialogs = write_sayings(tmp_path / "dialogs.jsonl", "abc", b="Спасибо.")
    for _ in range(2):
        report = speak(dialogs, tmp_path / "speech")
        assert report.turns == 4 and len(report.failed) == 1 and report.failed[0].startswith("b: ")
    with pytest.raises(InputError, match="others now: b;"):
        speak(write_sayings(dialogs, "abc"), tmp_path / "speech")
    assert speak(dialogs, tmp_path / "speech", overwrite=True) == CorpusReport(6, ())


@needs_synthesisers
def test_a_missing_synthesiser_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise InputError("eSpeak NG is not installed")

    monkeypatch.setattr("data_prep.embedded_model.synthesisers._espeak", missing)
    dialog = {"dialog": "d", "split": "train", "turns": [{"role": "user", "text": "hello"}]}
    (tmp_path / "dialogs.jsonl").write_text(json.dumps(dialog) + "\n")
    synthesize = partial(synthesize_corpus, str(tmp_path / "dialogs.jsonl"), processes=1, seed=0)
    with pytest.raises(InputError, match="eSpeak NG is not installed"):
        synthesize(str(tmp_path / "a"), voices=Voices(("flite-kal16",), ("flite-kal16",), espeak_share=0.1))
    assert not (tmp_path / "a").exists()
    synthesize(str(tmp_path / "b"), voices=Voices(("flite-kal16",), ("flite-kal16",), espeak_share=0.0))


@needs_synthesisers
def test_a_corpus_takes_recordings_and_noise_as_turns(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "said.wav", np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
    agent = {"role": "agent", "text": "sorry."}
    dialogs = [
        {"dialog": "a", "split": "train", "turns": [{"role": "user", "text": "..."}, agent]},
        {
            "dialog": "b",
            "split": "train",
            "turns": [{"role": "user", "text": "no.", "audio": str(tmp_path / "said.wav")}, agent],
        },
    ]
    (tmp_path / "dialogs.jsonl").write_text("".join(json.dumps(dialog) + "\n" for dialog in dialogs))
    voices = Voices(agents=("flite-kal16",), user=("flite-kal16",), espeak_share=0.0)
    synthesize_corpus(str(tmp_path / "dialogs.jsonl"), str(tmp_path / "speech"), voices=voices, processes=1, seed=0)
    noise, _, said, _ = read_speech_corpora([tmp_path / "speech"])
    assert (noise.speaker, noise.text, noise.words, noise.pronunciation) == ("noise", "...", (), ())
    assert 0.5 < noise.duration < 5
    assert (said.speaker, said.text) == ("recording", "no.")
    assert said.pronunciation == ("n", "ow")
    assert 2 / 1.25 < said.duration < 2 / 0.8  # its speed is varied


@needs_synthesisers
def test_recordings_are_imported_and_failures_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "source"
    source.mkdir()
    soundfile.write(source / "a.wav", np.random.default_rng(0).normal(0, 0.1, 24_000), 48_000)
    soundfile.write(source / "b.wav", np.random.default_rng(0).normal(0, 0.1, 40_000), 16_000)
    (source / "c.wav").write_bytes(b"no sound")
    rows = [
        {"id": "a", "audio": "a.wav", "speaker": "s", "text": "HELLO there"},
        {"id": "b", "audio": "b.wav", "speaker": "t"},
        {"id": "c", "audio": "c.wav", "speaker": "t"},
    ]
    (source / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = import_recordings([str(source)], str(tmp_path / "out"), max_seconds=2.0, dev_every=2)
    assert (report.utterances, report.without_text, len(report.failed)) == (3, 2, 1)
    assert "c.wav" in report.failed[0]
    first, second, rest = read_speech_corpora([tmp_path / "out"])
    assert (first.text, first.duration, first.split) == ("hello there.", 0.5, "train")
    assert (second.duration, rest.duration, second.split) == (2.0, 0.5, "dev")
    manifest = tmp_path / "out/manifest.jsonl"
    manifest.write_text(added := manifest.read_text().replace("null", '"a recogniser heard this."'))
    again = import_recordings([str(source)], str(tmp_path / "out"), max_seconds=2.0, dev_every=2)
    assert (again.utterances, again.without_text, manifest.read_text()) == (3, 2, added)
    assert report.left_out == again.left_out == 1 and again.failed == ()  # told again, but no failure of this run
    manifest.write_text(added.replace("}\n", ', "words": []}\n', 1))
    with pytest.raises(InputError, match=r"max_seconds: 2\.0 then, 1\.0 now"):
        import_recordings([str(source)], str(tmp_path / "out"), max_seconds=1.0, dev_every=2)
    import_recordings([str(source)], str(tmp_path / "out"), max_seconds=1.0, dev_every=2, overwrite=True)
    assert "1 utterances lost the times of their words to overwrite=true; align " in caplog.text
    shutil.copytree(source, tmp_path / "other/source")
    with pytest.raises(InputError, match="another source has the name source too"):
        import_recordings(
            [str(source), str(tmp_path / "other/source")], str(tmp_path / "b"), max_seconds=1.0, dev_every=2
        )
    (source / "manifest.jsonl").write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[0]) + "\n")
    with pytest.raises(InputError, match="id 'a' occurs twice"):
        import_recordings([str(source)], str(tmp_path / "c"), max_seconds=1.0, dev_every=2)
    assert not (tmp_path / "c/manifest.jsonl").exists()


def test_the_held_out_set_is_of_whole_test_dialogs(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "audio").mkdir(parents=True)
    rows = []
    for dialog, split in (("a", "test"), ("b", "train"), ("c", "test")):
        for turn in range(4):
            name = f"{dialog}-{turn}"
            soundfile.write(corpus / f"audio/{name}.flac", np.random.default_rng(turn).normal(0, 0.1, 16_000), 16_000)
            rows.append(
                {
                    "id": name,
                    "audio": f"audio/{name}.flac",
                    "speaker": "s",
                    "role": ("user", "agent")[turn % 2],
                    "dialog": dialog,
                    "turn": turn,
                    "split": split,
                    "text": "hello.",
                    "duration": 1.0,
                    "sample_rate": 16_000,
                }
            )
    (corpus / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert make_held_out(str(corpus), str(tmp_path / "out"), exchanges=3, seed=0) == 4
    written = list(read_speech_corpora([tmp_path / "out"]))
    assert {utterance.dialog for utterance in written} == {"a", "c"}
    samples, sample_rate = soundfile.read(written[0].audio)
    assert len(samples) / sample_rate == pytest.approx(1.0, abs=0.01)
    with pytest.raises(InputError, match="exchanges: 3 then, 1 now"):
        make_held_out(str(corpus), str(tmp_path / "out"), exchanges=1, seed=0)
    assert make_held_out(str(corpus), str(tmp_path / "out"), exchanges=1, seed=0, overwrite=True) == 2
    assert len(list((tmp_path / "out/audio").iterdir())) == 4  # nothing of the other set is shipped
    with pytest.raises(InputError, match="4 test exchanges, 5 are wanted"):
        make_held_out(str(corpus), str(tmp_path / "out"), exchanges=5, seed=0)
