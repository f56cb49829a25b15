"""Units of corpora that grow, change, have bad rows, and are worked on by runs that are killed or share the work."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from kills import die, killed
from tiny_models import random_extractor

from usdm.audio.augmentation import SoundAugmentation
from usdm.cli.main import main
from usdm.data import extraction
from usdm.data.extraction import ExtractionReport, device_of_process, extract_units
from usdm.data.unit_corpus import UnitCorpus, UnitUtterance
from usdm.runs import Task, read_run
from usdm.types import InputError
from usdm.units import UnitExtractor

RATE = 16_000


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_extractor(tmp_path_factory.mktemp("units"), seed=0)


def save_extractor(folder: Path, seed: int) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random_extractor(20).save_pretrained(folder)
    return str(folder)


def write_corpus(folder: Path, names: Iterable[str], **changes: Any) -> Path:
    """An utterance a name: two words in noise that is the name's own."""
    folder.mkdir(exist_ok=True)
    rows = []
    for name in names:
        random = np.random.default_rng(ord(name[0]))
        samples = random.normal(0, 0.1, int(RATE * random.uniform(0.4, 1.0)))
        soundfile.write(folder / f"{name}.wav", samples, RATE)
        row = {"id": name, "audio": f"{name}.wav", "speaker": "s", "role": "user", "split": "train", "dialog": name}
        row |= {"turn": 0, "duration": len(samples) / RATE, "sample_rate": RATE, "text": f"{name} and {name}"}
        rows.append(row | {"words": [[name, 0.0, 0.1], ["and", 0.1, 0.2]]} | changes)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def extract(corpus: Path, extractor: str, folder: Path, **settings: Any) -> ExtractionReport:
    return extract_units([str(corpus)], extractor, str(folder), **{"shard_utterances": 2, **settings})


def units_in(folder: Path) -> dict[str, UnitUtterance]:
    rows = list(UnitCorpus(folder).utterances())
    assert len({row.id for row in rows}) == len(rows)  # none is doubled
    return {row.id: row for row in rows}


def expected(corpus: Path, extractor: str, name: str) -> list[int]:
    samples, _ = soundfile.read(corpus / f"{name}.wav", dtype="float32")
    units: list[int] = UnitExtractor.from_pretrained(extractor)([torch.from_numpy(samples)])[0].tolist()
    return units


def test_a_corpus_that_grows_loses_no_row_and_doubles_none(tmp_path: Path, extractor: str) -> None:
    corpus, folder = write_corpus(tmp_path / "speech", "abc"), tmp_path / "units"
    first = extract(corpus, extractor, folder)
    assert (first.utterances, first.missing, first.failed) == (3, 0, ())
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    write_corpus(corpus, "zabcdefg")  # one of them in front
    report = extract(corpus, extractor, folder)
    rows = units_in(folder)
    assert report.utterances == len(rows) == 8 and set(rows) == set("zabcdefg")
    assert report.units == sum(len(row.units) for row in rows.values()) and report.without_words == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())  # what was there is not done again
    for name in "zcg":
        assert rows[name].units.tolist() == expected(corpus, extractor, name)
    assert extract(corpus, extractor, folder) == report
    record = read_run(folder)
    assert record is not None and record.done and record.figures["utterances"] == 8


def test_units_of_another_extractor_or_of_changed_rows_are_refused(tmp_path: Path, extractor: str) -> None:
    corpus, folder = write_corpus(tmp_path / "speech", "abcd"), tmp_path / "units"
    extract(corpus, extractor, folder)
    other = save_extractor(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"extractor: .* then, .*other .* now\n.*overwrite=true"):
        extract(corpus, other, folder)
    extract(corpus, other, folder, overwrite=True)
    assert units_in(folder)["a"].units.tolist() == expected(corpus, other, "a")
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    manifest = corpus / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"text": "d and d"', '"text": "d or d"'))
    before = read_run(folder)
    with pytest.raises(InputError, match="rows that are not in the input any more, or are others now: d;"):
        extract(corpus, other, folder)
    assert read_run(folder) == before and before is not None and before.done  # whoever reads these units still can
    extract(corpus, other, folder, overwrite=True)
    assert units_in(folder)["d"].text == "d or d" and len(units_in(folder)) == 4
    assert sum((folder / name).stat().st_mtime_ns == time for name, time in times.items() if (folder / name).is_file())


def test_two_corpora_with_an_id_in_common_are_refused(tmp_path: Path, extractor: str) -> None:
    corpora = [str(write_corpus(tmp_path / name, names)) for name, names in (("one", "ab"), ("two", "bc"))]
    with pytest.raises(InputError, match=r"1 ids are of several utterances, such as 'b' in \S+/one and \S+/two"):
        extract_units(corpora, extractor, str(tmp_path / "units"))
    assert not (tmp_path / "units").exists()


def test_a_folder_that_is_no_extractor_costs_no_units(tmp_path: Path, extractor: str) -> None:
    corpus, folder = write_corpus(tmp_path / "speech", "ab"), tmp_path / "units"
    extract(corpus, extractor, folder)
    with pytest.raises(InputError, match=r"speech is no unit tokenizer: units\.json is missing"):
        extract(corpus, str(corpus), folder, overwrite=True)
    assert len(units_in(folder)) == 2


def test_bad_rows_are_told_and_take_no_other_with_them(
    tmp_path: Path, extractor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is too short for a unit, one is no sound, one has words out of order."""
    corpus, folder = write_corpus(tmp_path / "speech", "abcdef"), tmp_path / "units"
    soundfile.write(corpus / "b.wav", np.zeros(4), RATE)
    (corpus / "c.wav").write_bytes(b"no sound")
    manifest = corpus / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('[["d", 0.0, 0.1], ', '[["d", 0.3, 0.4], '))
    fields = json.loads((Path(extractor) / "units.json").read_text())
    command = ["extract_units", f"corpora=[{corpus}]", f"extractor={extractor}", f"output_dir={folder}", "processes=1"]
    command += [f"shared.num_units={fields['num_units']}", f"shared.unit_rate={fields['unit_rate']}"]
    for _ in range(2):  # they are told at every run
        assert main(command) == 1
        captured = capsys.readouterr()
        assert "of 3 utterances" in captured.out and "3 utterances could not be extracted" in captured.err
        assert "b: A waveform of 4 samples" in captured.err and "c.wav: not a readable sound" in captured.err
        assert "d: 'and' starts at 0.1 s, before 'd'" in captured.err and "retry_errors=true" in captured.err
    good = {name: row.units.tolist() for name, row in units_in(folder).items()}
    assert good == {name: expected(corpus, extractor, name) for name in "aef"}

    write_corpus(tmp_path / "mended", "bc")
    for name in "bc":
        os.replace(tmp_path / f"mended/{name}.wav", corpus / f"{name}.wav")
    assert main([*command, "retry_errors=true"]) == 1
    assert "1 utterances could not be extracted" in capsys.readouterr().err
    assert set(units_in(folder)) == set("abcef")


def test_jobs_share_the_work_and_tell_what_is_still_to_come(tmp_path: Path, extractor: str) -> None:
    corpus = write_corpus(tmp_path / "speech", "abcdefg")
    whole = extract(corpus, extractor, tmp_path / "whole")
    late = extract(corpus, extractor, tmp_path / "jobs", job=1, num_jobs=2)
    assert (late.utterances, late.missing) == (3, 4)
    record = read_run(tmp_path / "jobs")
    assert record is not None and not record.done
    assert extract(corpus, extractor, tmp_path / "jobs", job=0, num_jobs=2) == whole
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).glob("*.parquet")} for name in ("whole", "jobs"))
    assert one == two and len(one) == 4
    with pytest.raises(InputError, match="job=2 of num_jobs=2"):
        extract(corpus, extractor, tmp_path / "jobs", job=2, num_jobs=2)


def test_a_killed_run_goes_on_to_the_same_files(
    tmp_path: Path, extractor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "speech", "abcdefg")
    extract(corpus, extractor, tmp_path / "whole")
    write, written = extraction.UnitCorpusWriter.write, []

    def write_and_die(writer: extraction.UnitCorpusWriter, row: UnitUtterance) -> None:
        write(writer, row)
        written.append(row)
        if len(written) == 5:
            die()

    with monkeypatch.context() as patch:
        patch.setattr(extraction.UnitCorpusWriter, "write", write_and_die)
        killed(lambda: extract(corpus, extractor, tmp_path / "cut"))
    assert len(list((tmp_path / "cut").glob("*.parquet"))) == 2
    extract(corpus, extractor, tmp_path / "cut")
    whole, cut = (
        {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "run.json"}
        for folder in (tmp_path / "whole", tmp_path / "cut")
    )
    assert whole == cut  # and nothing half-written is left


def test_users_are_extracted_as_other_voices(tmp_path: Path, extractor: str) -> None:
    corpus = write_corpus(tmp_path / "speech", "abcdef")
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    rows = [row | {"role": "agent" if row["id"] in "bdf" else "user"} for row in rows]
    rows.append(rows[0] | {"id": "again", "dialog": "again"})  # said a second time with the same sound
    (corpus / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other_voices = SoundAugmentation(formants=0.2, filter_decibels=6.0, noise_share=1.0)

    def extracted(name: str, **settings: Any) -> dict[str, UnitUtterance]:
        extract(corpus, extractor, tmp_path / name, **settings)
        return units_in(tmp_path / name)

    plain = extracted("plain")
    varied = extracted("varied", augmentation=other_voices, seed=3)
    assert set(varied) == {f"varied3-{name}" for name in plain}
    for name, row in plain.items():
        other = varied[f"varied3-{name}"]
        assert (other.dialog, other.words, other.role) == (f"varied3-{row.dialog}", row.words, row.role)
        assert len(other.units) == len(row.units) and other.word_ends.tolist() == row.word_ends.tolist()
        assert (other.units.tolist() == row.units.tolist()) == (row.role == "agent")
    assert varied["varied3-again"].units.tolist() != varied["varied3-a"].units.tolist()
    sharded = extracted("sharded", augmentation=other_voices, seed=3, shard_utterances=3, batch_seconds=0.5)
    assert all(sharded[name].units.tolist() == row.units.tolist() for name, row in varied.items())

    extracted("plain", seed=4)  # the seed is of the variation alone
    with pytest.raises(InputError, match=r"augmentation\.formants: null then, 0\.2 now"):
        extracted("plain", augmentation=other_voices, seed=3)
    with pytest.raises(InputError, match=r"augmentation\.seed: 3 then, 4 now"):
        extracted("varied", augmentation=other_voices, seed=4)
    with pytest.raises(InputError, match=r"augmentation\.speed=0\.1: words would no longer"):
        extracted("faster", augmentation=replace(other_voices, speed=0.1))


def test_processes_share_the_gpus(tmp_path: Path, extractor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [device_of_process("cpu", number) for number in range(2)] == ["cpu", "cpu"]
    assert device_of_process("cuda:1", 0) == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of_process("cuda", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    corpus = write_corpus(tmp_path / "speech", "a")
    with pytest.raises(InputError, match="device=cuda: this machine has no GPU"):
        extract(corpus, extractor, tmp_path / "units", device="cuda")


def test_several_processes_make_the_same_corpus(
    tmp_path: Path, extractor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(make: Any, tasks: Sequence[Task], processes: int) -> Iterator[None]:
        """As `in_processes` does it, without the seconds that processes take to start."""
        workers = [pickle.loads(pickle.dumps(make))(number) for number in range(processes)]
        for number, task in enumerate(reversed(tasks)):
            yield pickle.loads(pickle.dumps(workers[number % processes](pickle.loads(pickle.dumps(task)))))

    corpus = write_corpus(tmp_path / "speech", "abcdefg")
    one = extract(corpus, extractor, tmp_path / "one")
    monkeypatch.setattr(extraction, "in_processes", elsewhere)
    assert extract(corpus, extractor, tmp_path / "two", processes=2) == one
    one_files, two_files = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.parquet")} for name in ("one", "two")
    )
    assert one_files == two_files
