"""The folder of a batch synthesis: resumed, refused, full, shared by shards."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_models import build_random_bundle

from usdm.chain import DecoderSampling, GenerationSettings, SpokenDialogPipeline
from usdm.chain.requests import SynthesisRequest, read_requests
from usdm.chain.synthesis import synthesize
from usdm.runs import JsonLines, read_lines, read_run
from usdm.types import InputError, Sampling

STAGES = ("transcribe", "respond", "speak")
# One unit is 40 ms, so a reply is 1.4 kB for each.
REQUESTS = [SynthesisRequest(f"r{number}", units=tuple(range(1 + number))) for number in range(10)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> SpokenDialogPipeline:
    folder = build_random_bundle(tmp_path_factory.mktemp("bundle"))
    GenerationSettings({stage: Sampling(max_new_tokens=12) for stage in STAGES}, DecoderSampling(steps=1)).save(folder)
    return SpokenDialogPipeline.from_pretrained(folder)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Files but the results, whose order and times may differ."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".wav"}


def test_what_is_done_is_not_done_again(pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    synthesize(pipeline, REQUESTS[:4], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.wav")}
    report = synthesize(pipeline, REQUESTS, tmp_path, progress=lambda done, total, seconds: told.append((done, total)))
    assert (report.requests, report.earlier) == (10, 4)
    assert told == [(done, 10) for done in range(4, 11)]
    assert [row["id"] for row in rows(tmp_path / "results.jsonl")] == [request.id for request in REQUESTS]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.jsonl", "run.json", "run.lock", *(f"r{number}.wav" for number in range(10))
    }  # fmt: skip


def test_lines_and_sounds_that_were_cut_off_are_made_again(pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    synthesize(pipeline, REQUESTS, tmp_path)
    expected, results = contents(tmp_path), tmp_path / "results.jsonl"
    results.write_bytes(results.read_bytes()[:-7])
    (tmp_path / "r3.wav").unlink()
    (tmp_path / "r5.wav").write_bytes(expected["r5.wav"][:-100])
    (tmp_path / ".unfinished-00000-of-00001").mkdir()  # by a run that was killed
    (tmp_path / ".unfinished-00000-of-00001" / "r9.wav").touch()
    assert synthesize(pipeline, REQUESTS, tmp_path).earlier == 7
    assert sorted(row["id"] for row in rows(results)) == sorted(request.id for request in REQUESTS)
    assert contents(tmp_path) == expected


def test_failed_requests_are_kept_until_they_are_to_be_tried_again(
    pipeline: SpokenDialogPipeline, tmp_path: Path
) -> None:
    wrong = [*REQUESTS[:2], SynthesisRequest("x", units=(99,))]
    first = synthesize(pipeline, wrong, tmp_path)
    assert first.failed == ("x: unit 99: this model's units are 0..19",)
    assert synthesize(pipeline, wrong, tmp_path) == replace(
        first, earlier=3, seconds=0.0, work_seconds=pytest.approx(first.work_seconds, abs=60)
    )
    mended = [*wrong[:2], SynthesisRequest("x", units=(9,))]
    report = synthesize(pipeline, mended, tmp_path, retry_errors=True)
    assert (report.earlier, report.failed) == (2, ())
    assert [(row["id"], row["error"]) for row in rows(tmp_path / "results.jsonl")] == [
        (id_, None) for id_ in ("r0", "r1", "x")
    ]


def test_other_settings_are_refused_and_named(pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    synthesize(pipeline, REQUESTS[:2], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    hot = {"speak": Sampling(temperature=0.5)}
    with pytest.raises(InputError, match=r"sampling.speak.temperature: 0.0 then, 0.5 now\n  sampling.speak.max_new"):
        synthesize(pipeline, REQUESTS, tmp_path, sampling=hot)
    with pytest.raises(InputError, match=r"decoder.steps: 1 then, 4 now\ngive another output_dir"):
        synthesize(pipeline, REQUESTS, tmp_path, decoder=DecoderSampling(steps=4))
    with pytest.raises(InputError, match="num_shards: 1 then, 2 now"):
        synthesize(pipeline, REQUESTS, tmp_path, num_shards=2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "results.jsonl").write_text("")  # nothing was done, so there is nothing to agree with
    assert synthesize(pipeline, REQUESTS, tmp_path, sampling=hot).earlier == 0


def test_another_model_is_refused_and_named(pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    synthesize(pipeline, REQUESTS[:2], tmp_path / "out")
    other = SpokenDialogPipeline.from_pretrained(build_random_bundle(tmp_path / "other", seed=1))
    with pytest.raises(InputError, match=f'model: "{pipeline.fingerprint}" then, "{other.fingerprint}" now'):
        synthesize(other, REQUESTS, tmp_path / "out")


def test_overwrite_deletes_what_was_written_and_nothing_else(pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    synthesize(pipeline, REQUESTS[:3], tmp_path)
    (tmp_path / "question.wav").write_bytes(b"mine")
    assert synthesize(pipeline, REQUESTS[1:2], tmp_path, seed=1, overwrite=True).earlier == 0
    assert sorted(contents(tmp_path)) == ["question.wav", "r1.wav"]
    record = read_run(tmp_path)
    assert record is not None and record.done and record.figures["requests"] == 1


@pytest.mark.parametrize(
    "changed", [REQUESTS[1:], [SynthesisRequest("r0", units=(5,)), *REQUESTS[1:]]], ids=["taken out", "other units"]
)
def test_results_of_other_requests_are_refused(
    changed: list[SynthesisRequest], pipeline: SpokenDialogPipeline, tmp_path: Path
) -> None:
    synthesize(pipeline, REQUESTS[:3], tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(InputError, match="results of 1 requests that are no longer there, or ask for .*: r0"):
        synthesize(pipeline, changed, tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == before
    report = synthesize(pipeline, changed, tmp_path, overwrite=True)
    assert report.earlier == 2 and {row["id"] for row in read_lines(tmp_path / "results.jsonl")} == {
        request.id for request in changed
    }
    assert sorted(contents(tmp_path)) == sorted(f"{request.id}.wav" for request in changed)


def test_another_recording_under_the_same_name_is_another_request(
    pipeline: SpokenDialogPipeline, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    for name in ("asked", "moved"):
        (tmp_path / name).mkdir()
    soundfile.write(tmp_path / "asked" / "q.wav", random.normal(0, 0.1, 8000), 16_000)
    synthesize(pipeline, read_requests(tmp_path / "asked"), tmp_path / "out")
    shutil.copy(tmp_path / "asked" / "q.wav", tmp_path / "moved" / "q.wav")
    assert synthesize(pipeline, read_requests(tmp_path / "moved"), tmp_path / "out").earlier == 1
    soundfile.write(tmp_path / "moved" / "q.wav", random.normal(0, 0.1, 8000), 16_000)
    with pytest.raises(InputError, match="ask for something else now: q"):
        synthesize(pipeline, read_requests(tmp_path / "moved"), tmp_path / "out")


def test_a_file_of_something_else_is_left_alone(pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"score": 3}\n')
    with pytest.raises(InputError, match="holds results that do not say what they were made from"):
        synthesize(pipeline, REQUESTS, tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == '{"score": 3}\n'


def test_one_run_at_a_time(pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    with JsonLines(tmp_path / "results.jsonl") as lines:
        with pytest.raises(InputError, match="another run is writing to it"):
            synthesize(pipeline, REQUESTS, tmp_path)
        lines.keep()  # the file is replaced, and still locked
        with pytest.raises(InputError, match="another run is writing to it"):
            synthesize(pipeline, REQUESTS, tmp_path)
    assert synthesize(pipeline, REQUESTS, tmp_path).earlier == 0


@contextmanager
def room_for_files_of(size: int) -> Iterator[None]:
    """Every write beyond `size` bytes of a file fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [12_000, 1_700], ids=["a sound does not fit", "the results do not fit"])
def test_a_full_disk_keeps_what_was_finished(size: int, pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    requests = REQUESTS if size > 2_000 else [replace(request, units=(1,)) for request in REQUESTS]
    synthesize(pipeline, requests, tmp_path / "enough")
    full = tmp_path / "full"
    with pytest.raises(InputError, match="cannot be written to any more") as error, room_for_files_of(size):
        synthesize(pipeline, requests, full)
    assert "the same command again" in str(error.value)
    lines = (full / "results.jsonl").read_text().splitlines(keepends=True)
    finished = [json.loads(line)["id"] for line in lines if line.endswith("\n")]
    assert 2 <= len(finished) < len(requests)
    assert all((full / f"{id_}.wav").stat().st_size > 44 for id_ in finished)
    assert synthesize(pipeline, requests, full).earlier == len(finished)
    assert contents(full) == contents(tmp_path / "enough")
    assert len(rows(full / "results.jsonl")) == len(requests)


def test_shards_make_one_result(pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    synthesize(pipeline, REQUESTS, tmp_path / "whole")
    folder = tmp_path / "shards"
    for shard in (2, 0, 1):
        assert not (folder / "results.jsonl").exists()
        report = synthesize(pipeline, REQUESTS, folder, shard=shard, num_shards=3)
        assert report.requests == len(REQUESTS[shard::3])
    assert report.results == folder / "results.jsonl"
    assert {path.name for path in (folder / "results").iterdir()} == {f"0000{n}-of-00003.jsonl" for n in range(3)}
    assert [row["id"] for row in rows(report.results)] == [f"r{n}" for n in (0, 3, 6, 9, 1, 4, 7, 2, 5, 8)]
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_shard_that_has_nothing_to_do_ends_as_well(pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    reports = [synthesize(pipeline, REQUESTS[:1], tmp_path, shard=shard, num_shards=2) for shard in range(2)]
    assert [report.requests for report in reports] == [1, 0]
    assert reports[1].results is not None and len(rows(reports[1].results)) == 1
