"""What a researcher does: one key changed, other data, another start, a kill. No old result comes back unsaid."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hums import write_hums
from omegaconf import OmegaConf
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

import usdm as usdm_package
from usdm.cli.main import main
from usdm.cli.status import RECIPE, first_command
from usdm.data.unit_corpus import UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.runs import claim

LOOP = ["loop.steps=2", "loop.warmup_steps=1", "loop.log_every=1", "loop.validate_every=2", "loop.save_every=1"]
VOCODER = ["vocoder.dim=8", "vocoder.intermediate_dim=8", "vocoder.num_layers=1", "task.validation_utterances=1"]
TRAIN_VOCODER = ["train_vocoder", "corpora=[runs/tiny/speech]", *LOOP, *VOCODER]
SMALL, LARGE = ["task.batch_size=1", "task.crop_frames=16"], ["task.batch_size=3", "task.crop_frames=32"]
ROWS = [*LOOP, "loop.max_length=160", "loop.batch_size=1", "loop.validation_rows=2", "loop.report_to=[]"]
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LLM = [*(f"llm.model.{name}={size}" for name, size in SIZES.items()), *ROWS, "shared.num_units=12"]
FINETUNE = ["finetune", *ROWS, "shared.num_units=12", "splice_augmentation=null"]
WORDS = ("play", "some", "music", "now", "please")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an experiment in `runs/tiny`, whose first stages are made."""
    folder = tmp_path_factory.mktemp("experiment")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("runs/tiny").mkdir(parents=True)
        write_hums(Path("runs/tiny/speech"))
        write_units(Path("runs/tiny/unit_corpus"), "abcdefgh")
        usdm("train_tokenizer", "size=330")
        usdm("pretrain", *LLM)
        usdm(*FINETUNE)
        usdm(*TRAIN_VOCODER, *SMALL)
    return folder


@pytest.fixture(autouse=True)
def there(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in that directory."""
    monkeypatch.chdir(experiment)
    monkeypatch.setattr(sys, "path", list(sys.path))


def write_units(folder: Path, names: str) -> None:
    random = np.random.default_rng(0)
    with UnitCorpusWriter(folder / "units.parquet", UnitSource(12, 25, "a")) as writer:
        for number, name in enumerate(f"{letter}{turn}" for letter in names for turn in range(4)):
            units, ends = random.integers(0, 12, 10, dtype=np.uint16), np.arange(2, 11, 2, dtype=np.int32)
            split, role = ("train", "dev")[name[0] == names[-1]], ("user", "agent")[number % 2]
            text = " ".join(WORDS)
            writer.write(UnitUtterance(name, "s", role, name[0], number % 4, split, text, units, WORDS, ends))


def usdm(*arguments: str) -> None:
    assert main(arguments) == 0, arguments


def model(folder: str) -> bytes:
    return Path(folder, "model", "model.safetensors").read_bytes()


def overrides(folder: str) -> list[str]:
    return list(OmegaConf.load(Path(folder, ".hydra", "overrides.yaml")))


def log(folder: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


def test_another_key_of_the_task_is_another_vocoder(capsys: pytest.CaptureFixture[str]) -> None:
    first = model("runs/tiny/vocoder")
    assert main([*TRAIN_VOCODER, *LARGE]) == 2
    told = capsys.readouterr().err
    assert (
        "  task.batch_size: 1 then, 3 now\n  task.crop_frames: 16 then, 32 now\ngive another output_dir, or ov" in told
    )
    assert model("runs/tiny/vocoder") == first
    assert set(SMALL) <= set(overrides("runs/tiny/vocoder"))  # the results keep their own account
    usdm(*TRAIN_VOCODER, *SMALL, "loop.log_every=2", "loop.save_every=2")  # how often decides nothing
    again = capsys.readouterr()
    assert "finished by an earlier run" in again.err and "mel_distance" in again.out
    assert "loop.log_every=1" in overrides("runs/tiny/vocoder")
    assert main([*TRAIN_VOCODER, "corpora=[nowhere]", "output_dir=runs/tiny/new"]) == 2
    assert not Path("runs/tiny/new").exists()
    logging.getLogger("usdm").warning("nobody writes to a log there")


def test_overwrite_trains_anew() -> None:
    usdm(*TRAIN_VOCODER, *SMALL, "output_dir=old")
    first = model("old")
    usdm(*TRAIN_VOCODER, *LARGE, "output_dir=old", "overwrite=true")
    usdm(*TRAIN_VOCODER, *LARGE, "output_dir=new")
    assert model("old") == model("new") != first
    assert log("old") == log("new")


def test_another_start_or_corpus_is_another_model(capsys: pytest.CaptureFixture[str]) -> None:
    pretrained, finetuned = model("runs/tiny/pretrain"), model("runs/tiny/finetune")
    write_units(Path("more"), "abcdefghij")
    assert main(["pretrain", *LLM, "corpora=[more]", "seed=1"]) == 2
    told = capsys.readouterr().err
    assert "loop.seed: 0 then, 1 now" in told and "init_from.seed: 0 then, 1 now" in told
    assert "corpora: ['" in told and "unit_corpus'] (content " in told and "more'] (content " in told
    usdm("pretrain", *LLM, "corpora=[more]", "seed=1", "output_dir=b")
    assert model("b") != pretrained
    assert main([*FINETUNE, "pretrained=b/model"]) == 2
    told = capsys.readouterr().err
    assert "pretrained: " in told and "runs/tiny/pretrain/model (content " in told and "b/model (content " in told
    assert (model("runs/tiny/pretrain"), model("runs/tiny/finetune")) == (pretrained, finetuned)
    shutil.copytree("runs/tiny/pretrain/model", "elsewhere")
    for place in ("pretrained=elsewhere", "pretrained=runs/tiny/pretrain/model"):  # the same weights
        usdm(*FINETUNE, place)
        assert "finished by an earlier run" in capsys.readouterr().err


@pytest.mark.slow  # the ordinary tests kill every stage in test_torture.py
def test_a_killed_training_goes_on_and_no_part_of_a_file_stays() -> None:
    Path("own.py").write_text(
        "import os\n"
        "from usdm.training.vocoder import VocoderTask\n"
        "class Own(VocoderTask):\n"
        "    def batch(self, step):\n"
        "        if step == 7 and os.environ.get('DIE'):\n"
        "            open('runs/tiny/own/checkpoint.pt.1.part', 'w').close()  # as a kill while it is written\n"
        "            os.kill(os.getpid(), 9)\n"
        "        return super().batch(step)\n"
    )
    train = [*TRAIN_VOCODER, *SMALL, "task._target_=own.Own", "output_dir=runs/tiny/own"]
    train += ["loop.steps=10", "loop.save_every=3", "loop.validate_every=4"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "DIE": "1"}
    command = [sys.executable, "-m", "usdm.cli.main", *train]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    stopped = state_of("own")
    assert (stopped["state"], stopped["steps"]) == ("unfinished", 10) and stopped["step"] in (6, 7)
    usdm(*train)
    usdm(*train, "output_dir=whole")
    assert log("runs/tiny/own") == log("whole") and model("runs/tiny/own") == model("whole")
    assert not list(Path("runs/tiny/own").glob("*.part"))


def read_status(*arguments: str) -> list[dict[str, Any]]:
    usdm("status", *arguments, "json=status.json")
    return json.loads(Path("status.json").read_text())


def state_of(folder: str) -> dict[str, Any]:
    return next(stage for stage in read_status() if stage["folder"] == folder)


def test_status_says_what_is_made_and_what_is_stale(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN_VOCODER, *LARGE]) == 2  # what is refused leaves no trace
    states = {stage["folder"]: stage for stage in read_status()}
    assert list(states)[:5] == ["speech", "unit_corpus", "tokenizer", "pretrain", "finetune"]  # in the recipe's order
    missing = [folder for folder, stage in states.items() if stage["state"] == "never made"]
    assert list(states)[-len(missing) :] == missing and missing[0] == "dialogs"
    assert all(states[folder]["state"] == "done" for folder in ("tokenizer", "pretrain", "finetune", "vocoder"))
    assert (states["speech"]["state"], states["decoder"]["state"]) == ("unknown", "never made")
    assert states["decoder"]["command"] == "usdm train_decoder"
    vocoder = states["vocoder"]
    assert (vocoder["step"], vocoder["steps"], list(vocoder["figures"])) == (2, 2, ["mel_distance"])
    assert vocoder["command"].endswith(" task.batch_size=1 task.crop_frames=16")

    manifest = Path("runs/tiny/speech/manifest.jsonl")
    before = manifest.read_text()
    manifest.write_text(before + before.splitlines()[0].replace('"0"', '"9"') + "\n")  # somebody adds a recording
    states = {stage["folder"]: stage for stage in read_status()}
    assert {folder: states[folder]["stale"] for folder in ("tokenizer", "pretrain", "finetune", "vocoder")} == {
        "tokenizer": ["corpora: runs/tiny/speech has changed"],
        "pretrain": ["tokenizer: tokenizer is stale"],
        "finetune": ["pretrained: pretrain is stale"],
        "vocoder": ["corpora: runs/tiny/speech has changed"],
    }
    assert states["vocoder"]["command"] == vocoder["command"] + " overwrite=true"  # or it would be refused
    capsys.readouterr()
    usdm("status", "--json")
    assert json.loads(capsys.readouterr().out) == list(states.values())
    usdm("status")
    told = capsys.readouterr().out
    assert "because corpora: runs/tiny/speech has changed" in told and "  usdm train_decoder\n" in told
    manifest.write_text(before)
    assert state_of("finetune")["state"] == "done"


def test_status_tells_who_is_at_work_and_what_is_gone(tmp_path: Path) -> None:
    Path("runs/tiny/gone").mkdir()
    source = tmp_path / "source.txt"
    source.write_text("text")
    with claim("runs/tiny/gone", {}, {"text": source}, results=()) as claimed:
        assert state_of("gone")["state"] == "running"
        claimed.finish()
    assert state_of("gone")["state"] == "done"
    source.unlink()
    stage = state_of("gone")
    assert stage["state"] == "stale" and stage["stale"][0].endswith("source.txt is gone")


def test_status_lists_the_jobs_of_a_sweep() -> None:
    usdm(
        TRAIN_VOCODER[0],
        "-m",
        *TRAIN_VOCODER[1:],
        "task.batch_size=1,2",
        "task.crop_frames=16",
        "output_dir=runs/tiny/two",
    )
    jobs = [stage for stage in read_status() if stage["folder"].startswith("two/")]
    assert [(job["folder"], job["state"]) for job in jobs] == [
        (f"two/sweep/task.batch_size-{size}", "done") for size in (1, 2)
    ]
    before = log("runs/tiny/" + jobs[0]["folder"])
    usdm(*shlex.split(jobs[0]["command"])[1:])  # the command is of this very job
    assert log("runs/tiny/" + jobs[0]["folder"]) == before and not Path("runs/tiny/two/run.json").exists()


def test_status_of_another_experiment_has_its_stages() -> None:
    stages = read_status("experiment=usdm")
    assert [stage["folder"] for stage in stages] == ["unit_corpus", "pretrain", "finetune", "decoder"]
    assert stages[1]["command"] == "usdm pretrain experiment=usdm"


def test_status_knows_a_packaged_model(tmp_path: Path) -> None:
    shutil.copytree(Path(usdm_package.__file__).parent / "models" / "tiny", tmp_path / "parts")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/training.json").write_text('{"settings": {}, "hours": 0.5, "validation": {}}')
    parts = [f"parts.{name}={tmp_path}/parts/{name}" for name in ("units", "llm", "decoder", "vocoder")]
    runs = [f"runs.{name}={tmp_path}/run" for name in ("encoder", "pretrain", "finetune", "decoder", "vocoder")]
    usdm("package_model", *parts, *runs, "voices=null")
    stage = state_of("model")
    assert (stage["state"], list(stage["figures"])) == ("done", ["bytes"])
    usdm(*shlex.split(stage["command"])[1:])  # the same again
    with (tmp_path / "parts/units/config.json").open("a") as file:
        file.write(" ")
    stage = state_of("model")
    assert stage["state"] == "stale" and "parts.units" in stage["stale"][0]


@pytest.mark.parametrize("root", [None, "with space/a,b"])
@pytest.mark.parametrize("chosen", ["tiny", "usdm", "mine"])
def test_every_command_of_status_is_complete(
    chosen: str, root: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a shell would read it, Hydra composes it, and no value is left to be given."""
    monkeypatch.chdir(tmp_path)
    Path("my_conf/experiment").mkdir(parents=True)
    Path("my_conf/experiment/mine.yaml").write_text("defaults: [usdm]\nshared: {num_units: 500}\n")
    own = ["--config-dir", "my_conf"] if chosen == "mine" else []
    place = [] if root is None else [f"shared.folder='{root}'"]
    stages = read_status(*own, f"experiment={chosen}", *place)
    assert len(stages) >= 4 and all(stage["state"] == "never made" for stage in stages)
    capsys.readouterr()
    for stage in stages:
        verb, *rest = shlex.split(stage["command"])[1:]
        usdm(verb, *rest, "--cfg", "job", "--resolve")
        config = OmegaConf.create(capsys.readouterr().out)
        assert not OmegaConf.missing_keys(config), stage["command"]
        assert config.output_dir == f"{root or f'runs/{chosen}'}/{stage['folder']}"
        if verb == "finetune" and len(config.corpora) > 1:
            assert config.corpora[1] == f"{root or 'runs/tiny'}/varied"


def test_a_run_s_command_names_the_folder_of_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_hums(Path("speech"))
    Path("my_conf/experiment").mkdir(parents=True)
    Path("my_conf/experiment/mine.yaml").write_text("defaults: [tiny]\n")
    usdm("train_tokenizer", "--config-dir", "my_conf", "experiment=mine", "corpora=[speech]", "size=330")
    (stage,) = [each for each in read_status("--config-dir", "my_conf", "experiment=mine") if each["state"] == "done"]
    assert stage["command"] == "usdm train_tokenizer --config-dir my_conf experiment=mine 'corpora=[speech]' size=330"
    usdm(*shlex.split(stage["command"])[1:])


def test_status_begins_with_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(*arguments: str) -> list[str]:
        capsys.readouterr()
        usdm("status", *arguments)
        return capsys.readouterr().out.splitlines()

    monkeypatch.chdir(tmp_path)
    assert lines()[0] == "runs/tiny: no such folder yet"
    write_hums(Path("speech"))
    usdm("train_tokenizer", "corpora=[speech]", "size=330", "shared.folder=runs/my")
    usdm("train_tokenizer", "corpora=[speech]", "size=330", "output_dir=runs/alone")
    told = "other folders with runs: runs/alone, runs/my (usdm status shared.folder=FOLDER)"
    assert lines()[:2] == [told, "runs/tiny: no such folder yet"]
    mine = lines("shared.folder=runs/my")
    assert mine[1] == "runs/my" and mine[2].split()[:2] == ["tokenizer", "done"]
    assert not any("experiment=" in line for line in mine)
    monkeypatch.chdir("runs/my")
    assert lines("shared.folder=.")[0].startswith("other folders with runs: ../alone (")


def test_status_of_a_folder_is_of_the_experiment_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_hums(Path("speech"))
    usdm("train_tokenizer", "experiment=people", "corpora=[speech]", "size=330", "shared.folder=theirs")
    made, missing = read_status("shared.folder=theirs")
    assert "experiment=people" in shlex.split(made["command"])
    # Its stages are its own: they are not those of the embedded model's recipe.
    assert (missing["folder"], missing["state"]) == ("model", "never made")
    assert missing["command"] == "usdm make_model experiment=people shared.folder=theirs"
    asked = [
        stage for stage in read_status("shared.folder=theirs", "experiment=tiny") if stage["state"] == "never made"
    ]
    assert len(asked) >= 4 and not any("experiment=" in stage["command"] for stage in asked)


def test_the_folder_of_a_language_model_may_be_below_the_models_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("USDM_MODELS", str(tmp_path))
    pretrain = ["pretrain", "llm=mistral_7b", *ROWS, "shared.num_units=12", "output_dir=runs/tiny/found"]
    assert main([*pretrain, "llm.folder=who/this"]) == 2
    assert f"llm.folder=who/this is not at {Path.cwd()}/who/this, {tmp_path}/who/this" in capsys.readouterr().err
    tokenizer = PreTrainedTokenizerFast.from_pretrained("runs/tiny/tokenizer")
    sizes = {**SIZES, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    MistralForCausalLM(MistralConfig(**sizes)).save_pretrained(tmp_path / "mistralai/Mistral-7B-v0.1")
    tokenizer.save_pretrained(tmp_path / "mistralai/Mistral-7B-v0.1")
    usdm(*pretrain)  # as `experiment=usdm` names it


def test_the_recipe_of_status_is_the_documents_() -> None:
    page = (Path(__file__).parents[1] / "docs/embedded_model.md").read_text()
    for step in RECIPE:
        assert first_command(step, Path("runs/tiny"), "tiny") in page


def test_ablations_of_pretraining_are_one_sweep_on_the_same_sequences() -> None:
    made = Path("runs/tiny/pretrain/model/model.safetensors").stat().st_mtime_ns
    usdm("evaluate_pretraining", *LLM, "limit=4", "split=train")
    assert Path("runs/tiny/pretrain/model/model.safetensors").stat().st_mtime_ns == made  # what is there is taken
    table = json.loads(Path("runs/tiny/pretrain/perplexity.json").read_text())
    assert table["types"]["units"]["low"] <= table["types"]["units"]["perplexity"]
    asked = ["limit=6", "split=train", "segment_units=3", "interleave=unified,separate", "output_dir=ablations"]
    assert main(["evaluate_pretraining", "-m", *LLM, *asked]) == 0
    unified, separate = json.loads(Path("ablations/sweep/interleave.json").read_text())
    assert unified["figures"] != separate["figures"]
    assert set(unified["figures"]) == set(separate["figures"])  # asked about what it was not trained on too
    assert any(name.startswith("continue_") for name in separate["figures"])
