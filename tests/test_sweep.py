"""Sweeps: each job in its own folder, a table of all at the end, whoever launches them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from hums import write_hums
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from usdm.cli.job_folders import LONGEST, name_of
from usdm.cli.main import main
from usdm.cli.sweep import chosen
from usdm.data.unit_corpus import UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.types import InputError

LOOP = ["loop.steps=2", "loop.warmup_steps=1", "loop.log_every=1", "loop.validate_every=2", "loop.save_every=1"]
VOCODER = ["vocoder.dim=8", "vocoder.intermediate_dim=8", "vocoder.num_layers=1"]
TASK = ["corpora=[hums]", "task.batch_size=1", "task.crop_frames=16", "task.validation_utterances=1"]
SWEEP = ["train_vocoder", "-m", *LOOP, *VOCODER, *TASK]
PROGRAM = "import sys; from usdm.cli.main import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a directory that holds a corpus."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return write_hums(tmp_path / "hums")


def rows(table: str) -> list[dict[str, Any]]:
    return json.loads(Path(table).read_text())


def weights(folder: str) -> bytes:
    return Path(folder, "model", "model.safetensors").read_bytes()


def launched_apart(*arguments: str) -> subprocess.CompletedProcess[str]:
    """By a program that lies elsewhere, as the command `usdm` does."""
    program = Path("bin", "usdm")
    program.parent.mkdir(exist_ok=True)
    program.write_text(PROGRAM)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def write_unit_corpus(folder: Path) -> None:
    source = UnitSource(num_units=12, unit_rate=25, centroid_hash="a")
    with UnitCorpusWriter(folder / "units.parquet", source) as writer:
        for index, seconds in enumerate((0.2, 0.7, 0.8, 0.9)):
            units = np.arange(int(seconds * 25), dtype=np.uint16) % 12
            split = "dev" if index == 3 else "train"
            writer.write(UnitUtterance(str(index), "hum", "agent", "0", index, split, "hum", units))


def test_the_readme_s_sweep_trains_two_decoders(capsys: pytest.CaptureFixture[str]) -> None:
    write_unit_corpus(Path("units"))
    small = ["decoder.hidden_size=32", "decoder.intermediate_size=32", "decoder.num_hidden_layers=2", *LOOP]
    task = ["task.batch_size=1", "task.default_speaker=null", "task.crop_seconds=0.3", "shared.num_units=12"]
    sweep = ["train_decoder", "-m", "loop.learning_rate=1e-4,3e-4", *small, *task, "corpora=[hums]"]
    assert main([*sweep, "unit_corpus=units"]) == 0
    printed = capsys.readouterr().out
    slow, fast = (f"runs/tiny/decoder/sweep/loop.learning_rate-{rate}" for rate in ("0.0001", "0.0003"))
    assert weights(slow) != weights(fast)
    table = rows("runs/tiny/decoder/sweep/loop.learning_rate.json")
    assert [row["folder"] for row in table] == [slow, fast]
    assert main([*shlex.split(table[1]["command"])[1:], "--cfg", "job"]) == 0  # what runs this job alone
    assert OmegaConf.create(capsys.readouterr().out).output_dir == fast
    figures = [row["figures"] for row in table]
    assert figures[0].keys() == figures[1].keys() and figures[0] != figures[1]
    assert main(["finetune", f"pretrained={fast}/model", "--cfg", "job"]) == 0  # a later stage takes it as it is
    assert OmegaConf.create(capsys.readouterr().out).pretrained == f"{fast}/model"
    assert Path("runs/tiny/decoder/sweep/loop.learning_rate.txt").read_text() in printed
    assert [line.split()[0] for line in printed.splitlines() if slow in line and "done" in line] == ["0"]


def test_a_job_finds_its_folder_again_in_a_larger_sweep() -> None:
    assert main([*SWEEP, "seed=choice(1)"]) == 0
    kept = Path("runs/tiny/vocoder/sweep/seed-1")
    before = weights(str(kept)), (kept / "log.jsonl").read_text()
    assert main(["train_vocoder", "-m", "seed=2,1", *TASK, *VOCODER, *LOOP]) == 0
    assert (weights(str(kept)), (kept / "log.jsonl").read_text()) == before  # nothing was done again
    table = rows("runs/tiny/vocoder/sweep/seed.json")
    assert [row["folder"] for row in table] == [str(kept)[:-1] + "2", str(kept)]
    assert all(row["figures"]["mel_distance"] > 0 for row in table)  # of the earlier run too


def test_one_failed_job_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "task.crop_frames=many,16", "seed=4"]) == 2
    failed, done = rows("runs/tiny/vocoder/sweep/task.crop_frames.json")
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert "task.crop_frames='many'" in failed["error"] and done["figures"]["mel_distance"] > 0
    printed = capsys.readouterr()
    assert "job 0: task.crop_frames='many'" in printed.out and "task.crop_frames='many'" in printed.err
    assert "Traceback" not in printed.err


def test_precision_is_no_job_s_inheritance(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(config: DictConfig) -> None:
        accelerator = Accelerator(cpu=True, mixed_precision="bf16" if config.loop.bf16 else "no")
        seen.append(accelerator.mixed_precision)

    monkeypatch.setattr("usdm.cli.train_vocoder.run", run)
    assert main([*SWEEP, "loop.bf16=true,false"]) == 0
    assert seen == ["bf16", "no"]


@pytest.mark.parametrize(
    ("varied", "folders"),
    [
        (["output_dir=a,b/c"], ["a", "b/c"]),
        (
            ["shared.folder=a,b", "objective=spectral,adversarial"],
            [
                f"{folder}/{vocoder}/sweep/objective-{objective}"
                for folder in "ab"
                for vocoder, objective in {"vocoder": "spectral", "vocoder_adversarial": "adversarial"}.items()
            ],
        ),
    ],
)
def test_jobs_whose_folders_differ_already_keep_them(
    varied: list[str], folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    monkeypatch.setattr("usdm.cli.train_vocoder.run", lambda config: places.append(config.output_dir))
    assert main([*SWEEP, *varied]) == 0
    assert places == folders
    for folder in folders:  # what a job ran with lies in its folder, and says so
        assert OmegaConf.load(f"{folder}/.hydra/config.yaml").output_dir == folder


def test_jobs_with_shares_of_one_folder_go_on_sharing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    places = []
    monkeypatch.setattr("usdm.cli.extract_units.run", lambda config: places.append((config.output_dir, config.job)))
    sweep = [
        "extract_units",
        "-m",
        "job=range(0,2)",
        "num_jobs=2",
        "output_dir=units",
        "augmentation=none,other_voices",
    ]
    assert main(sweep) == 0
    plain, varied = (f"units/sweep/augmentation-{name}" for name in ("none", "other_voices"))
    assert sorted(places) == [(plain, 0), (plain, 1), (varied, 0), (varied, 1)]
    logs = {str(path.parents[1]) for path in Path("units").rglob(".hydra/config.yaml")}
    assert logs == {f"{folder}/jobs/{job}" for folder, job in places}


def test_replies_of_a_sweep_do_not_overwrite_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    short_reply = [f"sampling.{stage}.max_new_tokens=4" for stage in ("transcribe", "respond", "speak")]
    question = ["respond", "-m", "text=hello", "trace=reply.json", *short_reply]
    assert main([*question, "seed=1,2"]) == 0
    for seed in (1, 2):
        assert json.loads(Path(f"sweep/seed-{seed}/reply.json").read_text())["seed"] == seed
        assert Path(f"sweep/seed-{seed}/reply.wav").is_file()
    assert not Path("reply.wav").exists()
    places = []
    monkeypatch.setattr("usdm.cli.respond.run", lambda config: places.append((config.output, config.trace)))
    assert main([*question, "output=a.wav,b.wav"]) == 0
    assert places == [(f"{name}.wav", f"sweep/output-{name}.wav/reply.json") for name in "ab"]


@pytest.mark.slow
def test_jobs_of_joblib_train_side_by_side() -> None:
    done = launched_apart(*SWEEP, "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr[-3000:]
    table = rows("runs/tiny/vocoder/sweep/seed.json")
    assert [row["folder"] for row in table] == [f"runs/tiny/vocoder/sweep/seed-{seed}" for seed in (1, 2)]
    assert weights(table[0]["folder"]) != weights(table[1]["folder"])
    assert table[0]["figures"]["mel_distance"] != table[1]["figures"]["mel_distance"]
    assert Path("runs/tiny/vocoder/sweep/seed.txt").read_text() in done.stdout


@pytest.mark.slow
def test_a_submitted_job_that_is_killed_does_not_hide_the_other() -> None:
    Path("dying.py").write_text(
        "import os\n"
        "from usdm.training.vocoder import VocoderTask\n"
        "class Dying(VocoderTask):\n"
        "    def batch(self, step):\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    tasks = "task._target_=usdm.training.vocoder.VocoderTask,dying.Dying"
    done = launched_apart(*SWEEP, tasks, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    assert done.returncode == 1
    alive, killed = rows("runs/tiny/vocoder/sweep/task._target_.json")
    assert (alive["status"], killed["status"]) == ("done", "unfinished")
    assert alive["figures"]["mel_distance"] > 0
    assert "usdm train_vocoder: job 1 ended without a result" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore:Deprecated API features detected:DeprecationWarning")  # by SQLAlchemy, of Optuna 2
@pytest.mark.slow
def test_optuna_is_told_the_figure_that_is_asked_for() -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install 'usdm[optuna]'")
    search = ["hydra/sweeper=learning_rate", "hydra.sweeper.n_trials=2", "figure=mel_distance"]
    assert main([*SWEEP, *search]) == 0
    table = rows("runs/tiny/vocoder/sweep/loop.learning_rate.json")
    best = OmegaConf.load("runs/tiny/vocoder/sweep/optimization_results.yaml")
    assert best.best_value == min(row["figures"]["mel_distance"] for row in table)
    assert len({row["folder"] for row in table}) == 2


def test_a_sweeper_is_told_the_figures_that_are_asked_for() -> None:
    figures = {"accuracy": 0.5, "loss": 2.0}
    assert chosen(figures, None) == 0.5 and chosen(figures, "loss") == 2.0
    assert chosen(figures, ["loss", "accuracy"]) == [2.0, 0.5]
    assert chosen({}, None) is None
    with pytest.raises(InputError, match="figure=los: the result has no such figure, only accuracy, loss"):
        chosen(figures, "los")


def test_names_fit_into_file_systems_and_command_lines_and_differ() -> None:
    settings = [
        {"loop.learning_rate": "0.0001", "seed": "1"},
        {"decoder": "voicebox", "llm@model.llm": "tiny"},
        {"corpora": f"[{'/'.join(['a'] * 300)}]"},
        {"corpora": f"[{'/'.join(['a'] * 300)}b]"},
        {"input": "a b"},
        {"input": "a_b"},
        {"text": "'" + "가" * 100 + "'"},
        {"text": "'" + "나" * 100 + "'"},
        {"a": "1", "b": "2"},
        {"a": "1+b-2"},
    ]
    names = [name_of(each) for each in settings]
    assert names[0] == "loop.learning_rate-0.0001+seed-1"
    assert len(set(names)) == len(names)
    for name in names:
        assert name.isascii() and "/" not in name and len(name) <= LONGEST
        parsed = OverridesParser.create().parse_override(f"models=[runs/sweep/{name}/model]")
        assert parsed.value() == [f"runs/sweep/{name}/model"]
