"""The `usdm` command: verbs, messages, exit statuses, and what is left on disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError

from usdm.cli import WorkFailed
from usdm.cli.main import main, quote_as_written, quoted, verbs
from usdm.cli.respond import read_speech
from usdm.types import InputError

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> list[DictConfig]:
    """Configurations that the verb `prepare_dialogs` was run with; the work itself is left out."""
    seen: list[DictConfig] = []
    module = types.ModuleType("usdm.cli.prepare_dialogs")
    module.run = seen.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "usdm.cli.prepare_dialogs", module)
    return seen


FILES = ["train_file=a.jsonl", "held_out_file=b.jsonl"]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed and summary in printed for verb, summary in verbs().items())
    lines = printed.splitlines()
    columns = {line.index(each) for line in lines for each in verbs().values() if line.endswith(each)}
    assert len(columns) == 1


def test_help_imports_neither_torch_nor_hydra() -> None:
    code = "import sys; from usdm.cli.main import main; main(['--help']); print(sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout
    assert "'usdm.cli.main'" in loaded
    assert "'torch'" not in loaded and "'hydra'" not in loaded


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("usdm ")


def test_an_unknown_verb_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare_dialog"]) == 2
    assert "no verb 'prepare_dialog': did you mean 'prepare_dialogs'?" in capsys.readouterr().err


def test_a_part_that_the_verb_has_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["respond", "text=hello", "language=ko"]) == 2
    assert "this verb has no part 'language' to choose; --help after the verb" in capsys.readouterr().err


def test_a_folder_given_for_a_model_s_name_is_told_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["respond", "text=hello", "model=runs/my/model"]) == 2
    told = capsys.readouterr().err
    assert "people" in told and "model.name=FOLDER" in told


def test_a_verb_s_help_and_configuration(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert main(["prepare_dialogs", "seed=7", "--help"]) == 0
    printed = capsys.readouterr().out
    assert verbs()["prepare_dialogs"] in printed and "seed: 7" in printed
    assert main(["prepare_dialogs", "--cfg", "job", "seed=7"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    assert not any(elsewhere.iterdir())


def test_a_verb_s_help_has_its_parts_and_the_comments_of_its_settings(
    capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    own = elsewhere / "mine" / "interleave" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: usdm.interleave.Unified\nown: 3 # of mine\n")
    assert main(["pretrain", "--help", "interleave=own", "--config-dir", "mine", "labels=a b"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"interleave=own +continuation, correspondence, fixed, own, separate, unified\n", printed)
    assert re.search(r"objective=next_token +(?!.*dann).*weighted", printed)  # no other verb's
    assert "\nlabels: a b  # of a curriculum: " in printed and "\n  own: 3  # of mine\n" in printed
    assert "\n  num_units: 1000\n" in printed and "\n  unit_rate: 25  # Hz\n" in printed  # which an experiment gives
    assert "usdm.data.fill_in_middle.FillInMiddle" in printed  # a line of its own in the verb's file


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sed=7"], ["no setting is called sed (did you mean seed?); --help lists them"]),
        (["shared.folders=x"], ["no setting is called shared.folders (did you mean folder?)", "+shared.folders=..."]),
        (["seed=many"], ["'many'", "full_key: seed"]),
        (["experiment=huge"], ["experiment/huge", "tiny"]),
        (["results@hydra=nowhere"], ["Could not find 'results/nowhere'", "folder"]),
        (["seed"], ["seed"]),
        ([*FILES, "seed=-1"], ["seed=-1: it must be a number from 0 to 9223372036854775807"]),
        ([*FILES, f"seed={2**63}"], ["seed=9223372036854775808: it must be"]),
        (["seed=7"], ["held_out_file, train_file", "train_file=..."]),
        ([*FILES, "output_dir=file/below"], ["file"]),
    ],
)
def test_bad_settings_end_before_any_work(
    arguments: list[str], told: list[str], stage: list, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    (elsewhere / "file").write_text("")
    assert main(["prepare_dialogs", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("usdm prepare_dialogs: ")
    assert all(words in printed for words in told), printed
    assert "Traceback" not in printed and "Error executing job" not in printed
    assert "search path" not in printed
    assert stage == []


def test_a_swapped_part_s_settings_are_checked_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize_corpus", "voices.espeak_share=often"]) == 2
    assert "voices.espeak_share='often': data_prep.speech_corpus.Voices takes float" in capsys.readouterr().err
    assert main(["synthesize_corpus", "+voices.robot=1"]) == 2
    assert "voices.robot: data_prep.speech_corpus.Voices has no such argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (InputError("a.wav: no such file"), 2, "usdm prepare_dialogs: a.wav: no such file\n"),
        (PermissionError(13, "Permission denied", "a.jsonl"), 2, "usdm prepare_dialogs: a.jsonl: Permission denied"),
        (FileNotFoundError(2, "No such file", "elsewhere/parts"), 2, "elsewhere/parts: No such file"),
        (OSError(28, "No space left on device"), 2, "No space left on device; free some space"),
        (ModuleNotFoundError("No module named 'sklearn'", name="sklearn"), 2, "pip install 'usdm[train,evaluate"),
        (WorkFailed("2 of 9 failed"), 1, "usdm prepare_dialogs: 2 of 9 failed\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_expected_errors_are_one_message(
    error: BaseException,
    status: int,
    told: str,
    stage: list,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(config: DictConfig) -> None:
        raise error

    monkeypatch.setattr(sys.modules["usdm.cli.prepare_dialogs"], "run", fail)
    given = [*FILES, "output_dir=elsewhere"]
    assert main(["prepare_dialogs", *given]) == status
    printed = capsys.readouterr().err
    assert told in printed and "Traceback" not in printed
    if isinstance(error, Exception):
        with pytest.raises(InputError if isinstance(error, OSError) else type(error)):
            main(["prepare_dialogs", *given, "debug=true"])


@pytest.mark.parametrize("debug", [[], ["debug=true"]])
@pytest.mark.parametrize(
    "error",
    [
        KeyError("absent"),
        ValueError("too many values to unpack"),
        PermissionError(13, "Permission denied", "/nobody/named/this"),
        ModuleNotFoundError("No module named 'usdm.absent'", name="usdm.absent"),
        ConfigAttributeError("Key 'sead' is not in struct"),
    ],
)
def test_a_defect_shows_its_trace_and_how_to_report_it(
    error: Exception, debug: list[str], stage: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: DictConfig) -> None:
        raise error

    monkeypatch.setattr(sys.modules["usdm.cli.prepare_dialogs"], "run", fail)
    assert main(["prepare_dialogs", *FILES, "output_dir=a folder", *debug]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed and type(error).__name__ in printed and str(error) in printed
    assert "in fail" in printed and "hydra/_internal" not in printed  # the trace of our work alone
    told = printed.splitlines()[-1]
    assert "this is a defect of usdm" in told
    assert "usdm prepare_dialogs train_file=a.jsonl held_out_file=b.jsonl 'output_dir=a folder'" in told
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_a_torchaudio_for_another_torch_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(config: DictConfig) -> None:
        cause = OSError("libc10_cuda.so: cannot open shared object file: No such file or directory")
        raise OSError("Could not load this library: /lib/torchaudio/lib/_torchaudio.so") from cause

    monkeypatch.setattr("usdm.cli.plan.run", load)
    assert main(["plan"]) == 1
    told = capsys.readouterr().err
    assert "libc10_cuda.so" in told and "install both from the same index" in told and "Traceback" not in told


def test_a_defect_in_one_of_several_jobs_is_told_alike(
    stage: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: DictConfig) -> None:
        stage.append(config)
        if config.seed == 1:
            raise ValueError("too many values to unpack")

    monkeypatch.setattr(sys.modules["usdm.cli.prepare_dialogs"], "run", fail)
    assert main(["prepare_dialogs", "-m", *FILES, "seed=1,2"]) == 1
    printed = capsys.readouterr().err
    assert [config.seed for config in stage] == [1, 2]
    assert printed.count("Traceback") == 1 and "ValueError: too many values" in printed
    assert "this is a defect of usdm" in printed and "seed=1" in printed
    monkeypatch.setattr(sys.modules["usdm.cli.prepare_dialogs"], "run", lambda config: read_speech(str(config.seed)))
    assert main(["prepare_dialogs", "-m", *FILES, "seed=1,2"]) == 2
    printed = capsys.readouterr().err
    assert "usdm prepare_dialogs: 1: " in printed and "usdm prepare_dialogs: 2: " in printed
    assert "Traceback" not in printed


def test_modes_that_exclude_each_other(stage: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare_dialogs", "-m", "--cfg", "job"]) == 2
    printed = capsys.readouterr().err
    assert "Only one of" in printed and "Traceback" not in printed


def test_a_reader_that_ends_before_us() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from usdm.cli.main import main; sys.exit(main(['respond', '--cfg', 'job']))"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, cwd=REPOSITORY)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_stage_leaves_its_configuration_and_versions_beside_its_output(stage: list, elsewhere: Path) -> None:
    assert main(["prepare_dialogs", *FILES, "output_dir=made/here", "seed=7"]) == 0
    assert [config.seed for config in stage] == [7]
    assert Path.cwd() == elsewhere
    assert "seed=7" in (elsewhere / "made/here/.hydra/overrides.yaml").read_text()
    versions = json.loads((elsewhere / "made/here/versions.json").read_text())
    assert versions["seed"] == 7 and versions["torch"].partition(".")[0] == "2"
    assert [path.name for path in elsewhere.iterdir()] == ["made"]


def test_several_runs_in_one_command(stage: list) -> None:
    assert main(["prepare_dialogs", "-m", *FILES, "seed=1,2"]) == 0
    assert [config.seed for config in stage] == [1, 2]


@pytest.mark.parametrize("text", ["what's the price, then?", "a: b = c", "back\\slash (and more)", "'quoted'"])
def test_what_people_say_needs_no_quoting(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["respond", f"text={text}", "--cfg", "job"]) == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert shown.text == text.strip("'")


AS_WRITTEN = ("it's", "a\\", "a\\'b", "${seed}", "\\${seed}", "$5, (please) [x] {y}", "한글 = a\\\n", "$${a}", "''")


@pytest.mark.parametrize("written", AS_WRITTEN)
def test_what_is_quoted_stays_as_it_is_written(written: str) -> None:
    override = OverridesParser.create().parse_override(f"text={quoted(written)}")
    config = OmegaConf.create({"seed": 1, "a": 2, "text": override.value()})
    assert config.text == written


def test_paths_are_taken_as_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a=b,c 한글", "it's (1)", "plain"):
        Path(name).mkdir()
        assert quote_as_written(f"output={name}/new.wav") == (
            f"output={name}/new.wav" if name == "plain" else f"output={quoted(f'{name}/new.wav')}"
        )
        assert (quote_as_written(f"input={name}") == f"input={name}") == (name == "plain")
    for grammar in (
        "seed=1,2",
        "shard=range(0,3)",
        "corpora=[plain,plain]",
        "x={a: 1}",
        "output=no,dir/x",
        "y='plain'",
    ):
        assert quote_as_written(grammar) == grammar


def test_what_the_grammar_does_not_take_is_told_to_be_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["respond", "input=a=b.wav"]) == 2
    assert "needs quotes" in capsys.readouterr().err


def test_a_key_that_the_verb_has_not_is_refused_also_behind_a_plus(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "+jason=out.json"]) == 2
    assert "no setting is called jason (did you mean json?)" in capsys.readouterr().err
