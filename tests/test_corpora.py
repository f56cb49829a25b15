"""Corpora in: each recipe on a small tree in its corpus' layout, the plain sources, and what is refused or listed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep.corpora import Item, import_corpus, recipes, transcripts
from data_prep.corpora.importing import ImportReport
from data_prep.corpora.plain import jsonl, paired_files
from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.types import InputError


def write_sound(path: Path, seconds: float = 1.0, sample_rate: int = 16_000, channels: int = 1, **kind: str) -> Path:
    """Noise; channel c is c + 1 times as loud as the first, so that a test hears which one it got."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).normal(0, 0.05, round(seconds * sample_rate))
    soundfile.write(path, np.stack([noise * (c + 1) for c in range(channels)], axis=1), sample_rate, **kind)
    return path


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def imported(source: Iterable[Item], folder: Path, **changes: object) -> tuple[ImportReport, dict[str, Utterance]]:
    settings = dict(dev_share=0.0, max_failed_share=0.5, decode=False, threads=2) | changes
    report = import_corpus(source, str(folder), **settings)
    utterances = {utterance.id: utterance for utterance in read_speech_corpora([folder])}
    for utterance in utterances.values():
        if utterance.id != "cut":
            assert utterance.read().seconds == pytest.approx(utterance.duration, abs=0.01)
    assert len(utterances) == report.utterances
    assert len((folder / "failed.jsonl").read_text().splitlines()) == len(report.failed)
    return report, utterances


def test_librispeech_with_its_word_times(tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    for part in ("train-clean-100/19/198", "dev-clean/84/121"):
        speaker, chapter = part.split("/")[1:]
        name = f"{speaker}-{chapter}"
        write_sound(root / part / f"{name}-0000.flac")
        write_text(root / part / f"{name}.trans.txt", f"{name}-0000 HELLO THERE", f"{name}-0001 NO SOUND")
        write_text(
            tmp_path / "times" / part / f"{name}.alignment.txt", f'{name}-0000 ",HELLO,,THERE," "0.2,0.5,0.6,0.9,1.0"'
        )
    report, found = imported(recipes.librispeech(str(root), str(tmp_path / "times")), tmp_path / "out")
    assert {utterance.split for utterance in found.values()} == {"train", "dev"}
    hello = found["19-198-0000"]
    assert (hello.text, hello.speaker, hello.duration) == ("hello there", "19", 1.0)
    assert [(word.text, word.start, word.end) for word in hello.words] == [("HELLO", 0.2, 0.5), ("THERE", 0.6, 0.9)]
    assert sorted(failure.id for failure in report.failed) == ["19-198-0001", "84-121-0001"]


def test_libritts(tmp_path: Path) -> None:
    chapter = tmp_path / "LibriTTS/train-clean-100/14/208"
    rows = []
    for number, text in enumerate(("Villefort rose.", "Maximilian.")):
        name = f"14_208_000000_00000{number}"
        write_sound(chapter / f"{name}.wav", sample_rate=24_000)
        rows.append((name, text))
    rows.append(("14_208_000001_000000", "Its sound is lost."))
    write_text(chapter / "14_208.trans.tsv", *(f"{name}\t{text}\t{text}" for name, text in rows))
    write_text(chapter / "14_208.book.tsv", *(f"{name}\t{text}\tx\t25.5" for name, text in rows))
    write_text(tmp_path / "LibriTTS/SPEAKERS.txt", ";ID|SEX|SUBSET|MINUTES|NAME", "14|F|train-clean-100|25|Kristin")
    report, found = imported(recipes.libritts(str(tmp_path / "LibriTTS")), tmp_path / "out")
    assert [utterance.text for utterance in found.values()] == ["Villefort rose.", "Maximilian."]
    assert {(utterance.speaker, utterance.split) for utterance in found.values()} == {("14", "train")}
    assert [failure.id for failure in report.failed] == ["14_208_000001_000000"]


@pytest.mark.parametrize("suffix", ["opus", "flac"])
def test_multilingual_librispeech(tmp_path: Path, suffix: str) -> None:
    language = tmp_path / ("mls_polish_opus" if suffix == "opus" else "mls_polish")
    kind = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    write_text(
        language / "metainfo.txt", "SPEAKER|GENDER|PARTITION|MINUTES|BOOK ID|TITLE|CHAPTER", "6892|M|train|1|4|T|C"
    )
    for split in ("train", "dev", "test"):
        name = f"6892_10349_00000{len(split)}"
        write_sound(language / f"{split}/audio/6892/10349/{name}_{split}.{suffix}", **kind)
        write_text(language / f"{split}/transcripts.txt", f"{name}_{split}\tdzień dobry", f"{name}_gone\tnie ma")
    report, found = imported(recipes.multilingual_librispeech(str(tmp_path), opus=suffix == "opus"), tmp_path / "out")
    assert {utterance.split for utterance in found.values()} == {"train", "dev", "test"}
    assert {utterance.text for utterance in found.values()} == {"dzień dobry"}
    assert len(report.failed) == 3
    assert all("no such file" in failure.reason for failure in report.failed)


def test_gigaspeech_segments_long_recordings(tmp_path: Path) -> None:
    write_sound(tmp_path / "audio/podcast/P0000/POD1.opus", seconds=6.0, format="OGG", subtype="OPUS")
    write_sound(tmp_path / "audio/youtube/P0000/YOU1.opus", seconds=2.0, format="OGG", subtype="OPUS")

    def segment(name: str, begin: float, end: float, text: str, subset: str) -> dict:
        times = {"begin_time": begin, "end_time": end}
        return {"sid": name, "speaker": "N/A", "text_tn": text, "subsets": [f"{{{subset}}}"], **times}

    def audio(path: str, seconds: float, subset: str, *segments: dict) -> dict:
        head = {"aid": Path(path).stem, "path": path, "duration": seconds, "sample_rate": 16000, "channels": 1}
        return head | {"subsets": [f"{{{subset}}}"], "segments": list(segments)}

    listing = [
        audio(
            "audio/podcast/P0000/POD1.opus", 6.0, "XL",
            segment("POD1_S1", 0.5, 2.5, "AS THEY SAY <COMMA> YES <PERIOD>", "XL"),
            segment("POD1_S2", 2.5, 4.0, "<MUSIC>", "XL"),
            segment("POD1_S3", 5.0, 9.0, "PAST THE END", "XL"),
        ),
        audio("audio/youtube/P0000/YOU1.opus", 2.0, "DEV", segment("YOU1_S1", 0.25, 1.5, "OK <QUESTIONMARK>", "DEV")),
    ]  # fmt: skip
    (tmp_path / "GigaSpeech.json").write_text(json.dumps({"dataset": "GigaSpeech", "audios": listing}))
    report, found = imported(recipes.gigaspeech(str(tmp_path)), tmp_path / "out")
    said, asked = found["POD1_S1"], found["YOU1_S1"]
    assert (said.text, said.start, said.duration, said.split) == ("as they say, yes.", 0.5, 2.0, "train")
    assert (asked.text, asked.split) == ("ok?", "dev")
    assert report.speechless == 1
    assert [(failure.id, "mismatched duration" in failure.reason) for failure in report.failed] == [("POD1_S3", True)]
    whole, _ = soundfile.read(said.audio)
    rate = soundfile.info(said.audio).samplerate
    np.testing.assert_allclose(said.read().samples, whole[rate // 2 : rate // 2 + 2 * rate], atol=2e-2)


VOXPOPULI_SPANS = (("train", "0.5", "2.0"), ("dev", "2.0", "3.0"))


def test_voxpopuli_reads_the_annotations_that_lie_there(tmp_path: Path) -> None:
    session = "20190101-0900-PLENARY-1"
    path = tmp_path / f"raw_audios/en/2019/{session}_en.ogg"
    write_sound(path, seconds=4.0, format="OGG", subtype="VORBIS")
    columns = ["session_id", "speaker_id", "gender", "split", "start_time", "end_time", "normed_text", "original_text"]
    rows = [columns, *([session, "7", "f", *span, "hear hear", "Hear!"] for span in VOXPOPULI_SPANS)]
    with pytest.raises(InputError, match=r"asr_en\.tsv\.gz is missing"):
        list(recipes.voxpopuli(str(tmp_path)))
    with gzip.open(tmp_path / "asr_en.tsv.gz", "wt") as file:
        file.writelines("|".join(row) + "\n" for row in rows)
    _, found = imported(recipes.voxpopuli(str(tmp_path)), tmp_path / "out")
    assert [(u.start, u.duration, u.split) for u in found.values()] == [(2.0, 1.0, "dev"), (0.5, 1.5, "train")]
    assert {(utterance.text, utterance.speaker) for utterance in found.values()} == {("hear hear", "7")}


def test_peoples_speech_with_the_subsets_that_are_there(tmp_path: Path) -> None:
    for part in ("train/clean", "test/test"):
        write_sound(tmp_path / part / "book_DOT_mp3/book_DOT_mp3_00000.flac")
        files = [f"book_DOT_mp3/book_DOT_mp3_0000{number}.flac" for number in (0, 1)]
        data = {"duration_ms": [1000, 1000], "label": ["some words", "lost"], "name": files}
        row = {"identifier": f"session-{part[:4]}", "training_data": data}
        write_text(tmp_path / f"{part}.json", json.dumps(row))
    with pytest.raises(InputError, match="occurs in split"):  # the same names in both
        imported(recipes.peoples_speech(str(tmp_path)), tmp_path / "out")
    assert not (tmp_path / "out/manifest.jsonl").exists()
    (tmp_path / "test/test.json").unlink()
    report, found = imported(recipes.peoples_speech(str(tmp_path)), tmp_path / "out")
    (words,) = found.values()
    assert (words.text, words.speaker, words.split) == ("some words", "session-trai", "train")
    assert [failure.reason for failure in report.failed] == ["no such file"]


def test_common_voice_clips(tmp_path: Path) -> None:
    columns = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accents", "variant"]
    for split in ("train", "dev", "test"):
        write_sound(tmp_path / f"en/clips/cv_{split}.mp3", sample_rate=32_000, format="MP3")
        (tmp_path / f"en/clips/broken_{split}.mp3").write_bytes(b"not a sound at all" * 9)
        rows = [
            [f"client {split}", f"{name}_{split}.mp3", 'He said "no.', *[""] * 6] for name in ("cv", "broken", "gone")
        ]
        write_text(tmp_path / f"en/{split}.tsv", *("\t".join(row) for row in [columns, *rows]))
    report, found = imported(recipes.common_voice(str(tmp_path)), tmp_path / "out", max_failed_share=0.7)
    assert {(u.id, u.split, u.text) for u in found.values()} == {
        (f"cv_{split}", split, 'He said "no.') for split in ("train", "dev", "test")
    }
    assert sorted(failure.id for failure in report.failed) == sorted(
        f"{name}_{split}" for name in ("broken", "gone") for split in ("train", "dev", "test")
    )


@pytest.mark.parametrize("edition", ["0.92", "0.80"])
def test_vctk(tmp_path: Path, edition: str) -> None:
    new = edition == "0.92"
    for speaker in ("p225", "p226"):
        name = f"{speaker}_001"
        folder, file = ("wav48_silence_trimmed", f"{name}_mic2.flac") if new else ("wav48", f"{name}.wav")
        write_sound(tmp_path / folder / speaker / file, sample_rate=48_000)
        write_text(tmp_path / f"txt/{speaker}/{name}.txt", "Please call Stella.")
    write_text(tmp_path / "txt/p226/p226_002.txt", "Nobody recorded it.")
    prefix = "p" if new else ""
    info = (f"{prefix}{number}  22  F  English  Surrey" for number in (225, 226))
    write_text(tmp_path / "speaker-info.txt", "ID  AGE  GENDER  ACCENTS  REGION", *info)
    report, found = imported(recipes.vctk(str(tmp_path), edition), tmp_path / "out", dev_share=0.5)
    assert {(utterance.speaker, utterance.text) for utterance in found.values()} == {
        (speaker, "Please call Stella.") for speaker in ("p225", "p226")
    }
    assert [failure.reason for failure in report.failed] == ["no such file"]
    with pytest.raises(InputError, match="edition='1'"):
        list(recipes.vctk(str(tmp_path), "1"))


def test_dailytalk_keeps_dialogs_whole(tmp_path: Path) -> None:
    metadata: dict[str, dict] = {}
    for dialog in range(12):
        metadata[str(dialog)] = {}
        for turn in range(2):
            write_sound(tmp_path / f"data/{dialog}/{turn}_{turn}_d{dialog}.wav", seconds=0.5, sample_rate=22_050)
            facts = {"speaker": turn, "text": f"Turn {turn}.", "turn": turn, "topic": 1, "emotion": 0, "act": 1}
            metadata[str(dialog)][str(turn)] = facts | {"index": dialog * 2 + turn}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    _, found = imported(recipes.dailytalk(str(tmp_path)), tmp_path / "out", dev_share=0.5)
    assert {utterance.split for utterance in found.values()} == {"train", "dev"}
    for dialog in range(12):
        user, agent = (found[f"dailytalk_{turn}_{turn}_d{dialog}"] for turn in range(2))
        assert (user.role, agent.role, user.turn, agent.turn) == ("user", "agent", 0, 1)
        assert user.dialog == agent.dialog == f"d{dialog}" and user.split == agent.split


def test_fisher_calls_become_turns_of_two_channels(tmp_path: Path) -> None:
    for year in ("2004", "2005"):
        call = f"fe_03_{year[2:]}001"
        write_sound(
            tmp_path / f"LDC{year}S13/disc1/audio/000/{call}.sph", 12.0, 8_000, 2, format="NIST", subtype="ULAW"
        )
        write_text(
            tmp_path / f"LDC{year}T19/data/trans/000/{call}.txt", f"# {call}.sph", "# Transcribed", "",
            "0.50 1.50 A: hello (( this is ))", "1.70 2.50 A: [laughter] c._n._n.", "2.60 3.60 B: [noise]",
            "4.00 5.00 B: hi [[skip]] there", "5.10 6.00 A: and late", "30.0 31.0 B: beyond the end",
        )  # fmt: skip
        header = ",".join(f"c{column}" for column in range(12))
        cells = [call.split("_")[2], *"1234", "PIN7", *"6789", "PIN9", "x"]
        write_text(tmp_path / f"LDC{year}T19/doc/fe_{year}_calldata.tbl", header, ",".join(cells))
    report, found = imported(recipes.fisher(str(tmp_path), max_turn_seconds=3.0), tmp_path / "out")
    turns = [utterance for utterance in found.values() if utterance.dialog == "fe_03_04001"]
    assert [(u.text, u.turn, u.channel, u.role, u.speaker) for u in turns] == [
        ("hello this is c. n. n.", 0, 0, "user", "PIN7"),
        ("hi there", 1, 1, "agent", "PIN9"),
        ("and late", 2, 0, "user", "PIN7"),
    ]
    assert (turns[0].start, turns[0].duration) == (0.5, 2.0)
    assert report.speechless == 2
    assert len(report.failed) == 2
    first, second = turns[0].read().samples, turns[1].read().samples
    assert second.std() > 1.7 * first.std()  # the second channel is twice as loud
    _, phrases = imported(recipes.fisher(str(tmp_path), max_turn_seconds=0.0), tmp_path / "phrases")
    assert len(phrases) == 2 * 4


def test_switchboard(tmp_path: Path) -> None:
    write_sound(tmp_path / "swb1/swb1/sw02001.sph", 8.0, 8_000, 2, format="NIST", subtype="ULAW")
    for side, text in (("A", "th[at]- hello_1 [laughter-there]"), ("B", "[vocalized-noise]")):
        rows = [f"sw2001{side}-ms98-a-0001 0.0 0.9 [silence]", f"sw2001{side}-ms98-a-0002 0.9 2.5 {text}"]
        write_text(tmp_path / f"trans/20/2001/sw2001{side}-ms98-a-trans.text", *rows)
    report, found = imported(recipes.switchboard(str(tmp_path / "swb1"), str(tmp_path / "trans")), tmp_path / "out")
    (hello,) = found.values()
    assert (hello.text, hello.channel, hello.speaker, hello.start) == ("th- hello there", 0, "sw02001A", 0.9)
    assert report.speechless == 1


def test_transcribers_marks_are_taken_out() -> None:
    assert transcripts.gigaspeech("<SIL>") == ""
    assert transcripts.fisher("[[skip]]") == ""
    assert transcripts.switchboard("[laughter] [lemguini/linguini] about_1 {alrighty}") == "linguini about alrighty"


def test_a_recipe_says_what_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list(recipes.libritts(str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="none of the parts"):
        list(recipes.libritts(str(tmp_path)))
    with pytest.raises(InputError, match=r"recipe 'daily_talk' cannot read this corpus \(.*metadata.json"):
        list(recipes.dailytalk(str(tmp_path)))


def test_files_with_text_beside_them(tmp_path: Path) -> None:
    write_sound(tmp_path / "in/anna/a.wav")
    write_text(tmp_path / "in/anna/a.txt", "Raw 1.")
    write_text(tmp_path / "in/anna/a.normalized.txt", "Normal", "one.")
    write_sound(tmp_path / "in/bob/b.flac")
    write_text(tmp_path / "in/bob/b.lab", "b's own")
    write_sound(tmp_path / "in/bob/c.flac")
    write_sound(tmp_path / "in/bob/d.flac")
    write_text(tmp_path / "in/bob/d.txt", "  ")
    report, found = imported(paired_files(str(tmp_path / "in")), tmp_path / "out")
    assert {(u.id, u.text, u.speaker) for u in found.values()} == {
        ("anna-a", "Normal one.", "anna"),
        ("bob-b", "b's own", "bob"),
    }
    assert {failure.id: failure.reason[:10] for failure in report.failed} == {
        "bob-c": "no text be",
        "bob-d": "empty text",
    }


def write_rows(path: Path, *rows: dict | str) -> str:
    write_text(path, *(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_a_jsonl_of_dialog_turns(tmp_path: Path) -> None:
    write_sound(tmp_path / "call.wav", seconds=4.0, channels=2)
    rows = [
        {"audio": "call.wav", "text": "hello", "speaker": "a", "dialog": "x", "turn": 0, "start": 0.5, "end": 1.5}
        | {"channel": 0, "words": [["hello", 0.1, 0.9]], "pronunciation": ["hh"]},
        {"audio": "call.wav", "text": "hi", "speaker": "b", "dialog": "x", "turn": 1, "start": 2, "end": 3.5}
        | {"channel": 1, "role": "agent", "split": "test"},
        {"audio": "call.wav", "id": "whole", "duration": 4.0},
    ]
    report, found = imported(jsonl(write_rows(tmp_path / "turns.jsonl", *rows)), tmp_path / "out")
    hello, hi, whole = found["x-0"], found["x-1"], found["whole"]
    assert (hello.words[0].end, hello.pronunciation, hello.role, hello.split) == (0.9, ("hh",), "user", "train")
    assert (hi.role, hi.split, hi.start, hi.duration) == ("agent", "test", 2.0, 1.5)
    assert (whole.text, whole.start, whole.speaker, report.without_text) == (None, None, "unknown", 1)
    assert hi.read().samples.std() > 1.7 * hello.read().samples.std()


def test_bad_utterances_are_counted_and_listed(tmp_path: Path) -> None:
    write_sound(tmp_path / "good.wav")
    write_sound(tmp_path / "short.wav", seconds=0.01)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "noise.wav").write_bytes(b"this is no sound file")
    flac = write_sound(tmp_path / "cut.flac", seconds=5.0).read_bytes()
    (tmp_path / "cut.flac").write_bytes(flac[: len(flac) // 2])
    rows = [
        *({"id": f"g{number}", "audio": "good.wav", "text": "good"} for number in range(4)),
        {"id": "blank text", "audio": "good.wav", "text": " "},
        {"id": "g0", "audio": "good.wav", "text": "again"},
        {"id": "too long", "audio": "good.wav", "start": 0.5, "end": 1.7},
        {"id": "misstated", "audio": "good.wav", "duration": 0.6},
        {"id": "channel", "audio": "good.wav", "channel": 1},
        *({"id": name, "audio": f"{name}.wav"} for name in ("short", "empty", "noise", "missing")),
        "{broken",
        {"id": "no audio"},
        {"id": "number", "audio": "good.wav", "text": 7},
    ]
    file = write_rows(tmp_path / "rows.jsonl", *rows, {"id": "cut", "audio": "cut.flac"})
    report, found = imported(jsonl(file), tmp_path / "out", max_failed_share=0.8)
    assert set(found) == {"g0", "g1", "g2", "g3", "blank text", "cut"}
    assert found["blank text"].text is None
    reasons = {failure.id: failure.reason for failure in report.failed}
    for name, reason in {
        "g0": "duplicate id", "too long": "mismatched duration: 1.200 s from 0.500 s",
        "misstated": "mismatched duration: 0.600 s are stated", "channel": "channel 1", "short": "too short",
        "empty": "0 bytes", "noise": "not a readable", "missing": "no such file", "rows.jsonl:14": "line 14 is no",
        "rows.jsonl:15": "'audio'", "rows.jsonl:16": "text is 7",
    }.items():  # fmt: skip
        assert reason in reasons.pop(name)
    assert reasons == {}
    with pytest.raises(InputError, match=r"12 of 17 utterances failed.*at most a share of 0\.7 may.*raise"):
        imported(jsonl(file), tmp_path / "strict", max_failed_share=0.7, decode=True)
    assert {path.name for path in (tmp_path / "strict").iterdir()} == {"failed.jsonl"}  # no manifest, no half of one
    assert '"cut"' in (tmp_path / "strict/failed.jsonl").read_text()  # found by decoding


def test_what_was_imported_is_not_replaced_by_other_utterances(tmp_path: Path) -> None:
    rows = [{"id": name, "audio": "a.wav", "split": "train"} for name in "ab"]
    write_sound(tmp_path / "a.wav")

    def again(*changed: dict, **settings: object) -> ImportReport:
        return imported(jsonl(write_rows(tmp_path / "rows.jsonl", *changed)), tmp_path / "out", **settings)[0]

    again(*rows)
    manifest = tmp_path / "out/manifest.jsonl"
    manifest.write_text(added := manifest.read_text().replace("null", '"heard"'))
    assert again(*rows).without_text == 2 and manifest.read_text() == added  # what a recogniser added stays
    with pytest.raises(InputError, match="utterances: .* then, .* now\n.*overwrite=true"):
        again(rows[0])
    assert manifest.read_text() == added
    assert again(rows[0], overwrite=True).utterances == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("failed.jsonl", "manifest.jsonl", "run.json", "run.lock")
    }
    (tmp_path / "out/run.json").unlink()
    with pytest.raises(InputError, match="do not say what they were made from"):
        again(*rows)


def test_an_id_in_two_splits_is_refused_and_a_shared_sound_told(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav")
    rows = [{"id": name, "audio": "a.wav", "split": split} for name, split in (("a", "train"), ("b", "test"))]
    report, _ = imported(jsonl(write_rows(tmp_path / "told.jsonl", *rows)), tmp_path / "out")
    assert report.shared_sounds == 1
    before = (tmp_path / "out/manifest.jsonl").read_text()
    with pytest.raises(InputError, match="'a' occurs in split 'train' and in 'dev'"):
        imported(jsonl(write_rows(tmp_path / "bad.jsonl", *rows, rows[0] | {"split": "dev"})), tmp_path / "out")
    assert (tmp_path / "out/manifest.jsonl").read_text() == before  # what was there stays whole
    with pytest.raises(InputError, match="the file is empty"):
        imported(jsonl(write_rows(tmp_path / "none.jsonl")), tmp_path / "out")


def test_a_corpus_without_dev_utterances_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_sound(tmp_path / "a.wav")
    rows = write_rows(tmp_path / "rows.jsonl", {"id": "a", "audio": "a.wav"})
    imported(jsonl(rows), tmp_path / "none", dev_share=0.0)
    assert not caplog.records
    imported(jsonl(rows), tmp_path / "out", dev_share=1e-9)
    assert "no utterance of split dev" in caplog.text and "dev_share=1e-09" in caplog.text


def test_sound_within_the_corpus_moves_with_it(tmp_path: Path) -> None:
    write_sound(tmp_path / "corpus/audio/a.wav")
    rows = write_rows(tmp_path / "corpus/rows.jsonl", {"audio": "audio/a.wav", "text": "a"})
    imported(jsonl(rows), tmp_path / "corpus")
    (tmp_path / "corpus").rename(tmp_path / "moved")
    (utterance,) = read_speech_corpora([tmp_path / "moved"])
    assert utterance.read(8_000).seconds == 1.0
