"""Batch synthesis as a function: the same replies as one by one, whatever is wrong with single requests."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_models import build_random_bundle

import usdm.chain.synthesis_stages as stages
from usdm.audio import read_audio, write_audio
from usdm.chain import DecoderSampling, GenerationSettings, SpokenDialogPipeline
from usdm.chain.prefetch import prefetch
from usdm.chain.requests import SynthesisRequest, read_requests
from usdm.chain.synthesis import synthesize
from usdm.types import InputError, Sampling, Turn

STAGES = ("transcribe", "respond", "speak")
HISTORY = (Turn("user", "hi"), Turn("agent", "hello there"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> SpokenDialogPipeline:
    folder = build_random_bundle(tmp_path_factory.mktemp("bundle"))
    (folder / "voices").mkdir()
    write_noise(folder / "voices" / "anna.wav", 0.6, seed=9)
    GenerationSettings({stage: Sampling(max_new_tokens=12) for stage in STAGES}, DecoderSampling(steps=2)).save(folder)
    return SpokenDialogPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of seven recordings, of lengths that do not grow with their names."""
    folder = tmp_path_factory.mktemp("questions")
    for number, seconds in enumerate((0.5, 1.3, 0.2, 0.9, 0.4, 1.1, 0.7)):
        write_noise(folder / f"q{number}.wav", seconds, seed=number)
    return folder


def write_noise(path: Path, seconds: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000))
    soundfile.write(path, noise.clip(-1, 1), 16_000)


def rows(folder: Path, file: str = "results.jsonl") -> dict[str, dict[str, Any]]:
    """Results by id, each of which is there once."""
    found = [json.loads(line) for line in (folder / file).read_text().splitlines()]
    by_id = {row["id"]: row for row in found}
    assert len(by_id) == len(found)
    return by_id


def said(folder: Path) -> dict[str, tuple[Any, ...]]:
    """What the results say of each request, without the time that it took, and the bytes of its sound."""
    return {
        id_: (row["user_text"], row["agent_text"], row["agent_units"], row["error"], sound(folder, id_))
        for id_, row in rows(folder).items()
    }


def sound(folder: Path, id_: str) -> bytes | None:
    path = folder / f"{id_}.wav"
    return path.read_bytes() if path.exists() else None


def mixed_requests(questions: Path) -> list[SynthesisRequest]:
    recorded = read_requests(questions)
    return [
        *recorded,
        replace(recorded[0], id="voiced", voice="anna"),
        replace(recorded[1], id="as-recorded", reference=Path("q3.wav")),
        replace(recorded[2], id="seeded", seed=5),
        replace(recorded[3], id="later", history=HISTORY),
        replace(recorded[4], id="heard", transcript="how are you", reply="fine thanks"),
        SynthesisRequest("typed", text="how are you?"),
        SynthesisRequest("read aloud", text="how are you?", reply="fine, thanks"),
        SynthesisRequest("units", units=(1, 2, 3, 3, 2, 1, 19, 0)),
    ]


def test_replies_are_those_of_one_question_at_a_time(
    pipeline: SpokenDialogPipeline, questions: Path, tmp_path: Path
) -> None:
    requests = mixed_requests(questions)
    hot = {"speak": Sampling(temperature=1.0, max_new_tokens=12, seed=3)}
    report = synthesize(pipeline, requests, tmp_path, sampling=hot, seed=3, capacity=4)
    results = rows(tmp_path)
    assert report == replace(report, requests=len(requests), earlier=0, results=tmp_path / "results.jsonl")
    assert report.seconds == pytest.approx(sum(row["seconds"] for row in results.values())) and report.seconds > 1
    silent: list[str] = []
    for request in requests:
        if request.units is not None:
            continue
        seed = 3 if request.seed is None else request.seed
        heard = None if request.audio is None else read_audio(request.folder / request.audio)
        reply = pipeline.respond(
            None if heard is None else heard.samples,
            None if heard is None else heard.sample_rate,
            text=request.text,
            transcript=request.transcript,
            reply=request.reply,
            history=request.history,
            voice=request.voice,
            reference=read_audio(request.folder / request.reference) if request.reference else None,
            sampling={"speak": replace(hot["speak"], seed=seed)},
            seed=seed,
        )
        row = results[request.id]
        assert (row["user_text"], row["agent_text"]) == (reply.user_text, reply.agent_text)
        assert reply.agent_units is not None
        assert row["agent_units"] == reply.agent_units.tolist()
        assert tuple(row["truncated"]) == reply.truncated
        if reply.waveform is None:  # random weights may have nothing to say
            assert "say nothing" in row["error"] and sound(tmp_path, request.id) is None
            silent.append(request.id)
            continue
        assert set(row["timings"]) == set(reply.timings) - {"voice"} and row["error"] is None
        write_audio(tmp_path / "alone.wav", reply.waveform, reply.sample_rate)
        assert sound(tmp_path, request.id) == sound(tmp_path, "alone"), request.id
    assert [failure.partition(":")[0] for failure in sorted(report.failed)] == sorted(silent)
    assert len(silent) < 5
    assert results["units"]["agent_units"] == [1, 2, 3, 3, 2, 1, 19, 0]
    assert soundfile.info(tmp_path / "units.wav").duration == pytest.approx(8 / 25, abs=0.02)
    assert sound(tmp_path, "q0") != sound(tmp_path, "voiced")
    assert results["q2"]["agent_units"] != results["seeded"]["agent_units"]


def test_replies_do_not_depend_on_the_batch(pipeline: SpokenDialogPipeline, questions: Path, tmp_path: Path) -> None:
    requests = mixed_requests(questions)
    synthesize(pipeline, requests, tmp_path / "1", capacity=1)
    expected = said(tmp_path / "1")
    for capacity in (3, 8):
        random.Random(capacity).shuffle(requests)
        folder = tmp_path / str(capacity)
        synthesize(pipeline, requests, folder, capacity=capacity)
        assert said(folder) == expected
    synthesize(pipeline, requests, tmp_path / "batches", encode_batch=3, decode_batch=4)
    together = said(tmp_path / "batches")
    for id_ in expected:
        assert together[id_][:-1] == expected[id_][:-1]
        one, many = (soundfile.read(tmp_path / folder / f"{id_}.wav")[0] for folder in ("1", "batches"))
        np.testing.assert_allclose(many, one, atol=2 / 32767)


def test_bad_requests_become_lines_and_spoil_no_other(
    pipeline: SpokenDialogPipeline, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noise.wav").write_bytes(bytes(range(256)))
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 16_000)
    soundfile.write(tmp_path / "hour.flac", np.zeros(3600 * 4000, np.int16), 4000)
    good = read_requests(questions)
    bad = {
        "absent": (SynthesisRequest("absent", audio=Path("absent.wav"), folder=tmp_path), "no such file"),
        "noise": (SynthesisRequest("noise", audio=Path("noise.wav"), folder=tmp_path), "not a readable sound file"),
        "silent": (SynthesisRequest("silent", audio=Path("silent.wav"), folder=tmp_path), "is silent"),
        "hour": (SynthesisRequest("hour", audio=Path("hour.flac"), folder=tmp_path), "lasts 3600.0 s"),
        "voice": (replace(good[0], id="voice", reference=tmp_path / "silent.wav"), "is silent"),
        "unit": (SynthesisRequest("unit", units=(3, 20)), "unit 20: this model's units are 0..19"),
        "long": (SynthesisRequest("long", text="how are you " * 200), "512 positions"),
        "marked": (SynthesisRequest("marked", text="<s>"), "reserves"),
    }
    requests = [
        request for pair in zip(good, (request for request, _ in bad.values()), strict=False) for request in pair
    ]
    requests += [bad["marked"][0]]
    seen: list[str] = []

    def recorded(path: Path, *arguments: Any) -> Any:
        seen.append(Path(path).name)
        return read_audio(path, *arguments)

    monkeypatch.setattr(stages, "read_audio", recorded)
    report = synthesize(pipeline, requests, tmp_path / "out", capacity=3, encode_batch=4, decode_batch=4)
    results = rows(tmp_path / "out")
    for id_, (_, told) in bad.items():
        assert told in results[id_]["error"], results[id_]
        assert sound(tmp_path / "out", id_) is None
    assert {failure.partition(":")[0] for failure in report.failed} == set(bad)
    assert "hour.flac" not in seen  # its header was enough
    synthesize(pipeline, good, tmp_path / "good")
    kept = {id_: said(tmp_path / "out")[id_][:-1] for id_ in ("q0", "q1", "q2")}
    assert kept == {id_: said(tmp_path / "good")[id_][:-1] for id_ in kept}


def test_an_empty_reply_is_an_error(
    pipeline: SpokenDialogPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = pipeline.parts.template
    stop = template.stop_id("speak", "typed")
    nothing = torch.zeros_like(template.allowed("speak", "typed"))
    nothing[stop] = True
    monkeypatch.setattr(
        template, "allowed", lambda stage, layout: nothing if stage == "speak" else allowed(stage, layout)
    )
    allowed = type(template).allowed.__get__(template)
    report = synthesize(pipeline, [SynthesisRequest("quiet", text="hello")], tmp_path)
    assert "say nothing" in report.failed[0] and rows(tmp_path)["quiet"]["agent_text"] is not None


def test_a_stage_runs_ahead_of_the_next_but_not_without_bound() -> None:
    made: list[int] = []
    closed = threading.Event()

    def numbers() -> Generator[int, None, None]:
        try:
            for number in range(1000):
                made.append(number)
                yield number
        finally:
            closed.set()

    before = threading.active_count()
    items = prefetch(numbers(), 3)
    taken = []
    for item in items:
        taken.append(item)
        assert len(made) <= len(taken) + 4  # three that wait, and one that waits for room
        if len(taken) == 500:
            break
    assert taken == list(range(500)) and len(made) < 510
    items.close()
    assert closed.is_set() and threading.active_count() == before
    assert list(prefetch(numbers(), 3)) == list(range(1000))


def test_what_a_stage_raises_is_raised_after_what_it_made() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise InputError("wrong")

    items = prefetch(failing(), 3)
    assert next(items) == 1
    with pytest.raises(InputError, match="wrong"):
        next(items)


def test_a_defect_in_a_stage_ends_the_run_and_its_threads(
    pipeline: SpokenDialogPipeline, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    before = threading.active_count()
    monkeypatch.setattr(stages, "read_audio", broken)
    with pytest.raises(ZeroDivisionError):
        synthesize(pipeline, read_requests(questions), tmp_path, capacity=2)
    assert threading.active_count() == before
    monkeypatch.undo()
    assert synthesize(pipeline, read_requests(questions), tmp_path).earlier == 0  # nothing is locked


GOOD = '{"id": "a", "text": "hi"}'


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not JSON"),
        (b"\xff\xfe", "no UTF-8"),
        ("[1]", "a JSON list"),
        ("{}", "no id"),
        ("{}", "nothing to work with"),
        ('{"id": 3, "text": "hi"}', "id=3 is no string"),
        (GOOD, "id 'a' is also on line 1"),
        ('{"id": "b"}', "nothing to work with; give one of audio, text, units"),
        ('{"id": "b", "text": "hi", "audio": "b.wav"}', "audio and text to work with"),
        ('{"id": "b", "txt": "hi"}', "unknown key txt"),
        ('{"id": "b", "text": " "}', "text=' '"),
        ('{"id": "b", "text": "\\ud800"}', "text="),
        ('{"id": "b", "audio": 3}', "audio=3"),
        ('{"id": "b", "units": []}', "units must be a list"),
        ('{"id": "b", "units": [1, -1]}', "units must be a list"),
        ('{"id": "b", "units": [true]}', "units must be a list"),
        ('{"id": "b", "units": [1], "reply": "hi"}', "leave out reply"),
        ('{"id": "b", "text": "hi", "transcript": "hi"}', "needs no transcript"),
        ('{"id": "b", "text": "hi", "voice": "anna", "reference": "b.wav"}', "both reference and voice"),
        ('{"id": "b", "text": "hi", "seed": -1}', "seed=-1"),
        ('{"id": "b", "text": "hi", "seed": 9223372036854775808}', "seed=9223372036854775808"),
        ('{"id": "b", "text": "hi", "history": [{"role": "me", "text": "hi"}]}', "history must be"),
        ('{"id": "../b", "text": "hi"}', "cannot name a file"),
        ('{"id": ".b", "text": "hi"}', "cannot name a file"),
        ('{"id": "", "text": "hi"}', "cannot name a file"),
        ('{"id": "b\\u0000", "text": "hi"}', "cannot name a file"),
        ('{"id": "b ", "text": "hi"}', "cannot name a file"),
        ('{"id": "%s", "text": "hi"}' % ("é" * 101), "longer than 200 bytes"),
    ],
)
def test_wrong_lines_are_told_with_their_numbers(line: str | bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(InputError, match="1 cannot be used:\n  line 3: ") as error:
        read_requests(path)
    assert told in str(error.value)


def test_requests_are_read(tmp_path: Path) -> None:
    row = {"id": "größe 1.0", "audio": "deep/b.wav", "transcript": "hi", "reply": "ho", "reference": "c.wav", "seed": 3}
    row["history"] = [{"role": "user", "text": "hi"}, {"role": "agent", "text": ""}]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join([json.dumps(row), '{"id": "v", "units": [3, 0], "voice": "anna"}']))
    first, second = read_requests(path)
    assert first == SynthesisRequest(
        "größe 1.0", Path("deep/b.wav"), None, None, "hi", "ho", Path("c.wav"), None, 3,
        (Turn("user", "hi"), Turn("agent", "")), tmp_path,
    )  # fmt: skip
    assert second == SynthesisRequest("v", units=(3, 0), voice="anna", folder=tmp_path)
    assert first.digest == replace(first, folder=Path()).digest != second.digest


def test_many_wrong_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("{}\n" * 30)
    with pytest.raises(InputError, match="30 cannot be used") as error:
        read_requests(path)
    assert "line 10:" in str(error.value) and "line 11:" not in str(error.value)
    assert "and 20 more" in str(error.value)


def test_a_folder_tells_of_the_sounds_below_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "below").mkdir()
    for name in ("below/a.wav", "._b.wav"):  # hidden: what macOS leaves beside b.wav
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="no sound file .*; 1 in folders below it are not read"):
        read_requests(tmp_path)
    (tmp_path / "b.wav").touch()
    assert [request.id for request in read_requests(tmp_path)] == ["b"]
    assert "1 sound files; 1 in folders below it are not read" in caplog.text


def test_a_folder_s_files_need_different_stems(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sound file"):
        read_requests(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_requests(tmp_path / "absent.jsonl")
    (tmp_path / "notes.txt").touch()
    for name in ("b.wav", "a.FLAC", "a.ogg"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="a.ogg: another file has the same stem"):
        read_requests(tmp_path)
    (tmp_path / "a.ogg").unlink()
    assert [(request.id, request.audio) for request in read_requests(tmp_path)] == [
        ("a", Path("a.FLAC")),
        ("b", Path("b.wav")),
    ]
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="holds no request"):
        read_requests(tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"shard": 2, "num_shards": 2}, "shard=2 of num_shards=2"),
        ({"capacity": 0}, "capacity=0"),
        ({"decode_batch": 0}, "decode_batch=0"),
        ({"chain": "backwards"}, "backwards"),
        ({"sampling": {"sing": Sampling()}}, "sing"),
    ],
)
def test_wrong_settings_end_before_any_work(
    settings: dict[str, Any], told: str, pipeline: SpokenDialogPipeline, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told):
        synthesize(pipeline, [SynthesisRequest("a", text="hi")], tmp_path / "out", **settings)
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_requests_are_held_against_model_and_folder(
    pipeline: SpokenDialogPipeline, questions: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"1 requests are to be said .* \(a in otto\); it has anna"):
        synthesize(pipeline, [SynthesisRequest("a", text="hi", voice="otto")], tmp_path)
    with pytest.raises(InputError, match="2 requests have 1 different ids"):
        synthesize(pipeline, [SynthesisRequest("a", text="hi"), SynthesisRequest("a", text="ho")], tmp_path)
    with pytest.raises(InputError, match=r"the reply q0\.wav would replace a recording"):
        synthesize(pipeline, read_requests(questions), questions)
    with pytest.raises(InputError, match=r"the reply q0\.wav would replace a recording"):
        synthesize(pipeline, read_requests(questions), questions / ".." / questions.name)
