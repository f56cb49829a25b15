"""`usdm respond` and `usdm evaluate` from the command line to the files that they leave, on random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_models import build_random_bundle

from data_prep.text_files import read_texts
from usdm.cli.main import main
from usdm.cli.respond import read_history

SHORT = [f"sampling.{stage}.max_new_tokens=8" for stage in ("transcribe", "respond", "speak")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a question in it."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write("question.wav", noise, 16_000)
    return tmp_path


def respond(bundle: Path, *arguments: str) -> int:
    return main(["respond", f"model.name={bundle}", "decoding.steps=2", *SHORT, *arguments])


def made(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"question.wav"}


def test_a_reply_never_takes_the_place_of_a_recording(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("question.wav").read_bytes()
    for given in ("input=question.wav", "text=hi reference=./question.wav"):
        assert respond(bundle, *given.split(), "output=question.wav") == 2
        assert "question.wav would replace the recording given as" in capsys.readouterr().err
    assert Path("question.wav").read_bytes() == before


def test_a_recording_is_answered(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert respond(bundle, "input=question.wav", "output=answer.wav", "trace=answer.json", "seed=3") == 0
    told = capsys.readouterr()
    trace = json.loads((folder / "answer.json").read_text())
    assert f"heard: {trace['user_text']}" in told.out and f"reply: {trace['agent_text']}" in told.out
    assert "answer.wav" in told.out
    samples, rate = soundfile.read("answer.wav")
    assert rate == trace["sample_rate"] == 22_050
    assert len(samples) > 0 and np.abs(samples).max() > 0
    assert len(trace["user_units"]) == 25 and all(0 <= unit < 20 for unit in trace["agent_units"])
    assert list(trace["timings"]) == ["units", "transcribe", "respond", "speak", "decode", "vocode"]
    assert trace["seed"] == 3 and len(trace["model"]) == 16 and trace["first_sound"] is None
    assert made(folder) == {"answer.wav", "answer.json"}  # no folder of Hydra's


def test_the_same_seed_gives_the_same_files(bundle: Path, folder: Path) -> None:
    hot = [f"sampling.{stage}.temperature=1.0" for stage in ("transcribe", "respond", "speak")]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert (
            respond(bundle, "input=question.wav", f"output={name}.wav", f"trace={name}.json", *hot, f"seed={seed}") == 0
        )
    assert (folder / "a.wav").read_bytes() == (folder / "b.wav").read_bytes()
    a, b, c = (json.loads((folder / f"{name}.json").read_text()) for name in "abc")
    assert a["agent_text"] == b["agent_text"] and a["agent_units"] == b["agent_units"]
    assert a["agent_text"] != c["agent_text"]


def answered(bundle: Path, reply: str, *arguments: str) -> dict:
    """The trace, with words for a reply where the random model babbled."""
    assert respond(bundle, "reply=text", *arguments) == 0
    path = Path(next(a for a in arguments if a.startswith("trace=")).partition("=")[2])
    trace = json.loads(path.read_text()) | {"agent_text": reply}
    path.write_text(json.dumps(trace))
    return trace


def test_a_dialog_of_three_turns(bundle: Path, folder: Path) -> None:
    first = answered(bundle, "i am fine", "text=how are you", "trace=1.json")
    second = answered(bundle, "on your left", "text=the way please", "trace=2.json", "history=1.json")
    turns = [{"role": role, "text": trace[f"{role}_text"]} for trace in (first, second) for role in ("user", "agent")]
    assert first["user_text"] == "how are you"
    assert second["history"] == turns[:2]
    for history in ("history=2.json", "history=[1.json,2.json]"):
        assert respond(bundle, "input=question.wav", "reply=text", "trace=3.json", history) == 0
        assert json.loads((folder / "3.json").read_text())["history"] == turns
    assert made(folder) == {"1.json", "2.json", "3.json"}  # no sound


def test_a_trace_that_an_editor_saved_anew_is_read(bundle: Path, folder: Path) -> None:
    trace = {"history": [], "user_text": "hi", "agent_text": "yes"}
    Path("saved.json").write_text(json.dumps(trace, indent=1), encoding="utf-8-sig", newline="\r\n")
    assert [turn.text for turn in read_history("saved.json")] == ["hi", "yes"]
    Path("texts.txt").write_text("Hello there.\n\nAnother one.\n", encoding="utf-8-sig", newline="\r\n")
    assert list(read_texts("texts.txt")) == ["Hello there.", "Another one."]


def test_a_reference_voice_changes_the_sound_alone(bundle: Path, folder: Path) -> None:
    assert respond(bundle, "text=how are you", "output=a.wav", "trace=a.json") == 0
    assert respond(bundle, "text=how are you", "output=b.wav", "trace=b.json", "reference=question.wav") == 0
    a, b = (json.loads((folder / f"{name}.json").read_text()) for name in "ab")
    assert a["agent_units"] == b["agent_units"]
    assert (folder / "a.wav").read_bytes() != (folder / "b.wav").read_bytes()


def test_a_streamed_reply_is_as_long_and_tells_its_first_sound(
    bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert respond(bundle, "text=how are you", "output=a.wav", "trace=a.json") == 0
    assert "the first of it" not in capsys.readouterr().out
    assert respond(bundle, "text=how are you", "output=b.wav", "trace=b.json", "stream=true") == 0
    assert "the first of it after" in capsys.readouterr().out
    a, b = (json.loads((folder / f"{name}.json").read_text()) for name in "ab")
    assert a["agent_units"] == b["agent_units"] and b["first_sound"] > 0
    assert soundfile.info("a.wav").frames == soundfile.info("b.wav").frames


def test_a_voice_is_chosen_by_name(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voiced = folder / "voiced"
    shutil.copytree(bundle, voiced)
    (voiced / "voices").mkdir()
    shutil.copy("question.wav", voiced / "voices" / "slt.wav")
    assert respond(voiced, "text=how are you", "output=a.wav", "voice=slt") == 0
    assert respond(voiced, "text=how are you", "output=b.wav", "reference=question.wav") == 0
    assert respond(voiced, "text=how are you", "output=c.wav") == 0
    a, b, c = ((folder / f"{name}.wav").read_bytes() for name in "abc")
    assert a == b != c
    capsys.readouterr()
    assert respond(voiced, "text=how are you", "voice=kal") == 2
    assert "voice=kal: this model has slt" in capsys.readouterr().err


def test_other_chains(bundle: Path, folder: Path) -> None:
    assert respond(bundle, "input=question.wav", "chain=units_text_units", "trace=a.json") == 0
    assert respond(bundle, "input=question.wav", "chain=units_to_units", "trace=b.json") == 0
    a, b = (json.loads((folder / f"{name}.json").read_text()) for name in "ab")
    assert a["user_text"] is None and a["agent_text"] is not None
    assert b["user_text"] is None and b["agent_text"] is None and b["agent_units"]
    assert b["output"] == "reply.wav" and made(folder) == {"a.json", "b.json", "reply.wav"}
    assert respond(bundle, "text=hello", "history=b.json") == 2  # nothing to remember


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "input and text: neither is given"),
        (["input=question.wav", "text=hi"], "input and text: both is given"),
        (["input=absent.wav"], "absent.wav: no such file"),
        (["input=empty.wav"], "empty.wav: the file is empty"),
        (["input=noise.wav"], "noise.wav: not a readable sound file"),
        (["input=silence.wav"], "silence.wav: the recording is silent"),
        (["input=click.wav"], "click.wav: the recording lasts 0.010 s"),
        (["input=question.wav", "reference=absent.wav"], "absent.wav: no such file"),
        (["text=hi", "reference=question.wav", "voice=slt"], "voice=slt: give one of them"),
        (["text=hi", "voice=slt"], "voice=slt: this model has no named voices"),
        (["text='  '"], "there are no words in it"),
        (["text=hi", "output=absent/reply.wav"], "absent/reply.wav: the folder absent does not exist"),
        (["text=hi", "output=/proc/reply.wav"], "/proc/reply.wav: cannot be written"),
        (["text=hi", "output=reply.mp3"], "reply.mp3: the file name must end in .wav"),
        (["text=hi", "reply=text", "output=my.wav"], "output=my.wav with reply=text: only a spoken reply"),
        (["text=hi", "trace=absent/reply.json"], "absent/reply.json: the folder absent does not exist"),
        (["text=hi", "history=absent.json"], "absent.json: No such file"),
        (["text=hi", "history=noise.wav"], "history=noise.wav: not a trace"),
        (["text=hi", "chain=backwards"], "backwards"),
        (["text=hi", "reply=song"], "full_key: reply"),
        (["text=hi", "dtype=int4"], "full_key: dtype"),
        (["text=hi", "device=abacus"], "device=abacus cannot be used"),
        (["text=hi", "model.name=absent"], "absent: neither an embedded model"),
        (["text=hi", "sampling.speak.temperature=-1"], "-1"),
        (["text=hi", "seed=-1"], "seed=-1: it must be a number from 0"),
        (["text=hi", "sampling.speak.seed=-1"], "seed=-1: it must be from 0"),
        (["text=hi", "sampling.spek.temperature=1"], "no setting is called sampling.spek (did you mean speak?)"),
        (["text=hi", "decoding.solver=guess"], "guess"),
        (["text=hi", "model.nam=x"], "no setting is called model.nam (did you mean name?)"),
        (["text=hi", "threads=0"], "threads=0: give 1 or more"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    arguments: list[str], told: str, bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty.wav").touch()
    (folder / "noise.wav").write_bytes(bytes(range(256)))
    soundfile.write("silence.wav", np.zeros(16_000), 16_000)
    soundfile.write("click.wav", np.ones(160), 16_000)
    before = made(folder)
    assert respond(bundle, *arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("usdm respond: ") and told in printed, printed
    assert "Traceback" not in printed
    assert made(folder) == before


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(8_000, 1, "PCM_16"), (96_000, 2, "PCM_24"), (44_100, 6, "FLOAT"), (16_000, 1, "PCM_U8"), (22_050, 2, "DOUBLE")],
)
def test_any_sound_file_is_heard(rate: int, channels: int, subtype: str, bundle: Path, folder: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (rate, channels))
    soundfile.write("other.wav", noise, rate, subtype=subtype)
    assert respond(bundle, "input=other.wav", "reply=text", "trace=reply.json") == 0
    assert len(json.loads((folder / "reply.json").read_text())["user_units"]) == 25


def test_over_long_recordings_are_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write("long.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 601 * 4000), 4000)
    assert respond(bundle, "input=long.wav") == 2
    assert "long.wav: longer than the limit" in capsys.readouterr().err
    soundfile.write("long.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 60 * 4000), 4000)
    assert respond(bundle, "input=long.wav") == 2
    assert "60.0 s" in capsys.readouterr().err
