"""The report on a corpus: figures against hand-made corpora, and every planted fault in the JSON and on the page."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from usdm.cli.main import main
from usdm.data.unit_corpus import UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.inspection.audio import measure
from usdm.inspection.corpus import Inspection, inspect_corpora
from usdm.inspection.findings import findings
from usdm.inspection.report import HTML_FILE, JSON_FILE, write_report
from usdm.inspection.statistics import Extremes, Fingerprints, Rows, distribution
from usdm.inspection.units import unit_usage
from usdm.types import InputError, Waveform

RATE = 16_000
SOURCE = UnitSource(num_units=8, unit_rate=25, centroid_hash="0123456789abcdef")


def tone(seconds: float, *, amplitude: float = 0.25, hertz: float = 200.0, rate: int = RATE) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def clipped(seconds: float) -> np.ndarray:
    return np.clip(tone(seconds, amplitude=2.0), -1, 1)


@dataclass(frozen=True)
class Line:
    """One utterance; `sound` None leaves a file that is no sound."""

    name: str
    sound: np.ndarray | None
    text: str = "two words"
    speaker: str = "anna"
    dialog: str = ""
    split: str = "train"
    file: str = ""
    more: dict[str, object] | None = None


def write_corpus(folder: Path, lines: list[Line]) -> str:
    folder.mkdir(parents=True)
    rows = []
    for turn, line in enumerate(lines):
        path = folder / (line.file or f"{line.name}.wav")
        seconds = 1.0 if line.sound is None else len(line.sound) / RATE
        if line.sound is None:
            path.write_bytes(b"this is no sound")
        else:
            soundfile.write(path, line.sound, RATE, subtype="PCM_16")
        row = {"id": line.name, "audio": path.name, "speaker": line.speaker, "role": "user", "turn": turn}
        row |= {"dialog": line.dialog or line.name, "split": line.split, "text": line.text, "duration": seconds}
        rows.append(row | (line.more or {}))
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder)


def write_units(
    path: Path, rows: list[tuple[str, list[int]]], split: Callable[[str], str] = lambda name: "train"
) -> str:
    with UnitCorpusWriter(path, SOURCE, rows_per_group=2) as writer:
        for name, units in rows:
            values = np.asarray(units, np.uint16)
            writer.write(UnitUtterance(name, "anna", "user", name, 0, split(name), "hi", values))
    return str(path)


def counted(inspection: Inspection) -> dict[str, int]:
    return {finding.what: finding.count for finding in findings(inspection)}


def test_silence_clipping_and_level_are_those_that_were_made() -> None:
    sound = np.concatenate([silence(0.5), tone(1.0), silence(0.2), tone(0.5), silence(0.04), tone(0.5), silence(0.26)])
    found = measure(Waveform(torch.from_numpy(sound), RATE))
    assert found.seconds == pytest.approx(3.0)
    assert (found.leading, found.inner, found.trailing) == pytest.approx((0.5, 0.2, 0.26), abs=1e-6)  # 0.04 s: no pause
    assert found.silence == pytest.approx(0.96 / 3)
    assert found.level == pytest.approx(20 * math.log10(0.25 * math.sqrt(0.5 * 2 / 3)), abs=0.01)
    assert found.peak == pytest.approx(20 * math.log10(0.25), abs=0.01)
    assert found.clipped == 0


def test_clipping_is_a_run_at_full_scale_and_a_peak_is_not() -> None:
    # |2 sin| >= 0.999 for a share 1 - 2 asin(0.4995) / pi of the time.
    found = measure(Waveform(torch.from_numpy(clipped(1.0)), RATE))
    assert found.clipped == pytest.approx(1 - 2 * math.asin(0.4995) / math.pi, abs=0.02)
    peaks = tone(1.0)
    peaks[::100] = 1.0
    assert measure(Waveform(torch.from_numpy(peaks), RATE)).clipped == 0


def test_digital_silence_is_silence_from_its_start() -> None:
    found = measure(Waveform(torch.zeros(100), RATE))  # shorter than a frame
    assert (found.silence, found.leading, found.trailing, found.level) == (1.0, found.seconds, 0.0, -120.0)


def test_entropy_of_known_usage() -> None:
    usage = unit_usage(np.array([0, 4, 2, 1, 1, 0, 0, 0]))
    assert (usage.used, usage.entropy, usage.perplexity) == (4, 1.75, 2**1.75)
    assert usage.top_share == 0.5  # 1 % of 8 units is one unit
    even = unit_usage(np.full(1024, 3))
    assert (even.entropy, even.perplexity) == pytest.approx((10, 1024))
    assert even.top_share == pytest.approx(11 / 1024)
    nothing = unit_usage(np.zeros(8, np.int64))
    assert (nothing.used, nothing.entropy, nothing.top_share) == (0, 0.0, 0.0)


def test_unit_corpus_figures(tmp_path: Path) -> None:
    rows = [("a", [1, 1, 1, 2, 2, 3]), ("b", [3, 3, 4]), ("c", []), ("d", [4] * 25), ("e", [4] * 25)]
    path = write_units(tmp_path / "0.parquet", rows, lambda name: "test" if name == "e" else "train")
    found = inspect_corpora([], path)
    assert found.speech is None and found.units is not None
    units = found.units
    assert units.usage.counts == (0, 3, 2, 3, 51, 0, 0, 0)
    assert units.run_length == pytest.approx(59 / 7)  # 3 + 2 + 0 + 1 + 1 runs: none goes on into the next row
    assert units.rows.hours == pytest.approx(59 / 25 / 3600)
    assert units.leaking_sequences.examples == (("d (train)", "e (test)"),)
    assert (units.rows.without_length, units.without_words, units.speech) == (1, 5, None)


def test_units_are_held_against_the_length_of_the_speech(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "speech", [Line(name, tone(2.0)) for name in ("right", "short", "absent")])
    units = write_units(tmp_path / "0.parquet", [("right", [1] * 50), ("short", [1] * 30), ("other", [1] * 50)])
    found = inspect_corpora([corpus], units)
    assert found.units is not None and found.units.speech is not None
    speech = found.units.speech
    assert (speech.wrong_length, speech.without_units, speech.without_speech) == (1, 1, 1)
    assert speech.units_per_second is not None
    assert (speech.units_per_second.minimum, speech.units_per_second.maximum) == (15, 25)


def test_rows_text_and_alignment_by_hand(tmp_path: Path) -> None:
    times = {"words": [["it's", 0.5, 1.0], ["nine", 1.0, 1.5]], "word_confidence": [0.5, 0.9]}
    lines = [
        Line("a", tone(2.0), "It's nine – o'clock!", more=times),
        Line("b", tone(6.0), "at 9, it's", speaker="ben", split="dev", more={"words": [["at", 5.9, 6.4]]}),
        Line("c", silence(1.0), "", split="dev"),
    ]
    found = inspect_corpora([write_corpus(tmp_path / "speech", lines)], None).speech
    assert found is not None
    rows, alignment = found.rows, found.alignment
    assert (rows.utterances, rows.hours) == (3, pytest.approx(9 / 3600))
    assert (rows.text.words, rows.text.distinct_words, rows.text.with_digits, rows.text.without_text) == (6, 5, 1, 1)
    assert rows.text.other_characters == {"–": 1, "!": 1, ",": 1}
    assert rows.words_per_second is not None
    assert (rows.words_per_second.minimum, rows.words_per_second.maximum) == (0.5, 1.5)
    assert rows.speakers.hours == {"ben": pytest.approx(6 / 3600), "anna": pytest.approx(3 / 3600)}
    assert rows.speakers.effective == pytest.approx(2 ** -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3)))
    assert (rows.speakers.across_splits, rows.speakers.largest_share) == (1, pytest.approx(2 / 3))
    assert rows.splits["dev"].utterances == rows.splits["dev"].speakers == 2
    assert (alignment.utterances, alignment.share, alignment.impossible) == (2, pytest.approx(2 / 3), 1)
    assert alignment.covered == pytest.approx((1.0 + 0.1) / 9)
    assert alignment.confidence is not None and alignment.confidence.mean == pytest.approx(0.7)
    assert [outlier.id for outlier in found.outliers["lowest confidence"]] == ["a"]


PLANTED = [
    Line("good", tone(1.5), "nothing is wrong here"),
    Line("long", tone(12.0, hertz=210), "one", more={"duration": 12.0}),
    Line("fast", tone(1.0, hertz=220), "a b c d e f g h i j <b>"),
    Line("quiet", silence(1.0), "nobody hears this"),
    Line("loud", clipped(1.0), "everybody hears this"),
    Line("broken", None, "this cannot be heard"),
    Line("copy", tone(1.5), "copied", split="test"),
    Line("part one", tone(1.0, hertz=230), "first", dialog="talk"),
    Line("part two", tone(1.0, hertz=240), "second", dialog="talk", split="test"),
    Line("again", tone(1.0, hertz=250), "said once"),
    Line("again", tone(1.0, hertz=260), "said once", file="again2.wav"),
    Line("wrong", tone(1.0, hertz=270), "three seconds it says", more={"duration": 3.0}),
]
SHOWN = {
    "sounds that cannot be read": 1,
    "silent sounds, which never rise above -60 dBFS": 1,
    "sounds that are clipped somewhere": 1,
    "sounds that last otherwise than the corpus says": 1,
    "identical sounds in more than one split": 1,
    "sounds that are there under several names": 1,
    "dialogs with utterances in more than one split": 1,
    "ids that are given more than once": 1,
    "texts that a speaker says more than once": 1,
    "speakers in more than one split": 1,
}


def test_every_planted_fault_is_in_the_json_and_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "speech", PLANTED)
    units = write_units(tmp_path / "units.parquet", [("good", [1] * 37), ("long", [2] * 300)])
    folder = tmp_path / "report"
    arguments = [f"corpora=[{corpus}]", f"unit_corpus={units}", f"output_dir={folder}", "processes=1"]
    assert main(["inspect", *arguments, "outliers=2"]) == 1  # the unreadable sound
    message = capsys.readouterr()
    assert "broken.wav" in message.err and "fault: speech corpus: sounds that cannot be read: 1" in message.out

    assert main(["inspect", "-m", *arguments, "outliers=2,3"]) == 1
    told = [row["figures"] for row in json.loads((folder / "sweep/outliers.json").read_text())]
    assert told[0] == told[1] and told[0]["faults"] >= 8 and told[0]["utterances"] == len(PLANTED)

    figures = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
    found = {
        finding["what"]: finding["count"] for finding in figures["findings"] if finding["where"] == "speech corpus"
    }
    assert {what: found.get(what) for what in SHOWN} == SHOWN
    speech = figures["speech"]
    assert speech["leaking_audio"]["examples"] == [["good (train)", "copy (test)"]]
    assert speech["rows"]["leaking_dialogs"]["examples"] == [["part one (train)", "part two (test)"]]
    assert speech["audio"]["unreadable"][0]["id"] == "broken"
    outliers = {kind: rows[0]["id"] for kind, rows in speech["outliers"].items() if rows}
    assert outliers == {
        "longest": "long",
        "shortest": "fast",
        "most clipped": "loud",
        "most silent": "quiet",
        "most words per second": "fast",
        "fewest words per second": "long",
        "length off by most": "wrong",
    }
    assert speech["outliers"]["most words per second"][0]["value"] == pytest.approx(11)

    html = (folder / HTML_FILE).read_text(encoding="utf-8")
    for what in SHOWN:
        assert what in html
    for shown in ("good (train), copy (test)", "part one (train), part two (test)", "a b c d e f g"):
        assert shown in html
    assert "&lt;b&gt;" in html and "<b>" not in html  # what the corpus says is text, never markup
    assert html.count("<svg") >= 8 and html.count("<audio controls") == 11
    assert html.count("not a readable sound file") == 2  # the twelfth outlier is the broken file
    assert 'src="http' not in html and "<link" not in html and "<script" not in html
    assert "nan" not in json.dumps(figures).lower()


def test_a_clip_is_the_sound(tmp_path: Path) -> None:
    sound = np.concatenate([silence(1.0), tone(1.0)])
    more = {"start": 1.0, "duration": 0.5}
    inspection = inspect_corpora([write_corpus(tmp_path / "speech", [Line("a", sound, more=more)])], None)
    write_report(inspection, tmp_path)
    html = (tmp_path / HTML_FILE).read_text(encoding="utf-8")
    data = base64.b64decode(html.partition("data:audio/flac;base64,")[2].partition('"')[0])
    heard, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == RATE
    np.testing.assert_allclose(heard, tone(0.5), atol=1e-3)


def test_one_recording_of_several_utterances_is_measured_once_and_seen_across_splits(tmp_path: Path) -> None:
    lines = [Line("a", tone(1.0), file="x.wav"), Line("b", tone(1.0), file="x.wav", split="dev")]
    found = inspect_corpora([write_corpus(tmp_path / "speech", lines)], None)
    assert found.speech is not None
    assert (found.speech.audio.sounds, found.speech.audio.measured) == (1, 1)
    assert found.speech.leaking_sounds.examples == (("a (train)", "b (dev)"),)
    assert counted(found)["recordings whose utterances are in more than one split"] == 1


def test_a_sample_is_stated_and_the_same_for_a_seed(tmp_path: Path) -> None:
    lines = [Line(f"u{i}", tone(0.2, hertz=200 + i)) for i in range(12)]
    corpus = write_corpus(tmp_path / "speech", lines)
    first, again, other = (inspect_corpora([corpus], None, limit=4, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.speech is not None and other.speech is not None
    assert (first.speech.audio.sounds, first.speech.audio.measured, first.speech.rows.utterances) == (12, 4, 12)
    silent = [[row.id for row in found.speech.outliers["most silent"]] for found in (first, other) if found.speech]
    assert silent[0] != silent[1]
    write_report(first, tmp_path)
    assert "A random sample of 4 of 12 sounds" in (tmp_path / HTML_FILE).read_text(encoding="utf-8")


def test_processes_give_the_same_figures(tmp_path: Path) -> None:
    lines = [Line(f"u{i}", tone(0.2, hertz=200 + i)) for i in range(3)] + [Line("broken", None)]
    corpus = write_corpus(tmp_path / "speech", lines)
    assert inspect_corpora([corpus], None, processes=2) == inspect_corpora([corpus], None)


def test_what_cannot_be_inspected_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to inspect: give corpora"):
        inspect_corpora([], None)
    with pytest.raises(InputError, match="limit=0: it must be at least 1"):
        inspect_corpora(["anything"], None, limit=0)
    corpus = write_corpus(tmp_path / "speech", [Line("a", tone(0.2), more={"duration": math.inf})])
    with pytest.raises(InputError, match="a: duration inf is no length"):
        inspect_corpora([corpus], None)
    with pytest.raises(InputError, match="no unit corpus there"):
        inspect_corpora([], str(tmp_path))


def test_a_far_value_does_not_flatten_a_histogram() -> None:
    found = distribution([*np.linspace(1, 2, 999), 1e6])
    assert found is not None
    assert (found.maximum, found.count, sum(found.counts)) == (1e6, 1000, 1000)
    assert found.edges[-1] < 3 and max(found.counts) < 100
    assert distribution([]) is None


def test_extremes_keep_the_first_of_equals() -> None:
    largest, smallest = Extremes[str](2), Extremes[str](2, largest=False)
    for value, item in [(1.0, "a"), (3.0, "b"), (3.0, "c"), (0.5, "d"), (3.0, "e"), (0.5, "f")]:
        largest.add(value, item)
        smallest.add(value, item)
    assert largest.ranked() == [(3.0, "b"), (3.0, "c")]
    assert smallest.ranked() == [(0.5, "d"), (0.5, "f")]


def test_repeats_of_many_rows() -> None:
    fingerprints, rows = Fingerprints(), Rows()
    for row in range(100):
        rows.add(f"u{row}", "train" if row < 97 else "test")
        fingerprints.add(str(row % 60), row)  # 0..39 occur twice; rows 97, 98, 99 repeat 37, 38, 39
    every, leaks = fingerprints.repeats(rows, 2), fingerprints.repeats(rows, 5, across_splits=True)
    assert (every.contents, every.utterances, len(every.examples)) == (40, 80, 2)
    assert (every.by_split, leaks.by_split) == ({"train": 77, "test": 3}, {"train": 3, "test": 3})
    assert (leaks.contents, leaks.utterances) == (3, 6)
    assert sorted(leaks.examples) == [(f"u{row} (train)", f"u{row + 60} (test)") for row in (37, 38, 39)]
