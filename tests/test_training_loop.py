"""The training loop: exact resume, averaging, honest refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from usdm.runs import read_run
from usdm.training.loop import LoopSettings, train
from usdm.training.task import AdversarialTask, TrainingTask
from usdm.types import InputError

SETTINGS = LoopSettings(
    steps=12, learning_rate=0.05, warmup_steps=3, log_every=2, save_every=4, validate_every=6, ema_decay=0.9, threads=1
)


class LineTask(TrainingTask):
    """Fits a line to noisy points; dropout and a drawn noise make every source of randomness count."""

    stop_at: int | None = None

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.line = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def modules(self) -> dict[str, nn.Module]:
        return {"line": self.line}

    def batch(self, step: int) -> Tensor:
        if step == self.stop_at:
            raise KeyboardInterrupt
        return torch.randn(16, 3, generator=torch.Generator().manual_seed(step))

    def losses(self, batch: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        noise = torch.randn(16, 1, generator=generator) * 0.1
        error = (self.line(batch) - batch.sum(1, keepdim=True) + noise).pow(2).mean()
        return {"loss": error, "error": error}

    def validate(self, step: int, folder: Path) -> Mapping[str, float]:
        assert not self.line.training
        batch = torch.randn(64, 3, generator=torch.Generator().manual_seed(99))
        return {"error": float((self.line(batch) - batch.sum(1, keepdim=True)).pow(2).mean())}

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(self.line.state_dict(), folder / "line.pt")


def stopping(task: LineTask, step: int) -> LineTask:
    """The same task, in a run that ends there without a warning."""
    task.stop_at = step
    return task


def rows(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("stop_at", [5, 9])
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path: Path, stop_at: int) -> None:
    whole = train(LineTask(), SETTINGS, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(stopping(LineTask(), stop_at), SETTINGS, tmp_path / "killed")
    resumed = train(LineTask(), SETTINGS, tmp_path / "killed")
    assert resumed == whole
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    left, right = (tmp_path / name / "model/line.pt" for name in ("whole", "killed"))
    assert left.read_bytes() == right.read_bytes()


def test_two_runs_of_one_task_leave_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(LineTask(), SETTINGS, tmp_path / "a")
    monkeypatch.setattr(os, "getpid", lambda: 7)  # files that are being written are called by it
    train(LineTask(), SETTINGS, tmp_path / "b")
    assert (tmp_path / "a/checkpoint.pt").read_bytes() == (tmp_path / "b/checkpoint.pt").read_bytes()


def test_a_run_that_ended_before_it_could_say_so_gives_its_figures(tmp_path: Path) -> None:
    class Unsaved(LineTask):
        def save(self, folder: Path) -> None:
            raise KeyboardInterrupt

    figures = train(LineTask(), SETTINGS, tmp_path / "whole")
    Unsaved.__qualname__, Unsaved.__module__ = LineTask.__qualname__, LineTask.__module__
    with pytest.raises(KeyboardInterrupt):
        train(Unsaved(), SETTINGS, tmp_path / "killed")
    assert train(LineTask(), SETTINGS, tmp_path / "killed") == figures
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }


def test_a_finished_run_is_not_trained_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    figures = train(LineTask(), SETTINGS, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "run.json"}
    with caplog.at_level("INFO"):
        assert train(stopping(LineTask(), 0), replace(SETTINGS, log_every=1), tmp_path) == figures
    assert "finished by an earlier run" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_checkpoint_of_another_device_goes_on_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(LineTask(), SETTINGS, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")  # what the file says of tensors
        train(stopping(LineTask(), 9), SETTINGS, tmp_path / "killed")
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)
    assert train(LineTask(), SETTINGS, tmp_path / "killed") == whole


def test_it_learns_and_leaves_its_record(tmp_path: Path) -> None:
    figures = train(LineTask(), replace(SETTINGS, steps=150), tmp_path)
    assert figures["error"] < 0.7
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["settings"]["steps"] == 150
    assert record["parameters"] == 41
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_the_schedule_warms_up_and_decays() -> None:
    settings = replace(SETTINGS, steps=100, warmup_steps=10, learning_rate=1.0, final_learning_rate_share=0.1)
    rates = [settings.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert all(later < earlier for earlier, later in zip(rates[10:], rates[11:], strict=False))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    train(LineTask(), SETTINGS, tmp_path)
    with pytest.raises(InputError, match=r"loop\.learning_rate: 0\.05 then, 0\.1 now"):
        train(LineTask(), replace(SETTINGS, learning_rate=0.1), tmp_path)


class SlopeTask(LineTask):
    """A researcher's own: its arguments are all that it says about itself."""

    def __init__(self, points: str | Path, slopes: Sequence[float] = (1.0,), *, crop: int = 3) -> None:
        super().__init__()
        self.points, self.slopes, self.crop = points, slopes, crop


def test_another_argument_of_the_task_is_another_run(tmp_path: Path) -> None:
    points = tmp_path / "points.txt"
    points.write_text("1 2 3")
    train(SlopeTask(points), SETTINGS, tmp_path / "run")
    for other, told in (
        (SlopeTask(points, crop=4), r"task\.crop: 3 then, 4 now"),
        (SlopeTask(points, (1.0, 2.0)), r"task\.slopes: \[1\.0\] then, \[1\.0, 2\.0\] now"),
        (LineTask(), r"task\.class: .*SlopeTask. then, .*LineTask. now"),
    ):
        with pytest.raises(InputError, match=told):
            train(other, SETTINGS, tmp_path / "run")
    train(SlopeTask(str(points)), SETTINGS, tmp_path / "run")
    points.write_text("4 5 6")
    with pytest.raises(InputError, match=r"points: .*points\.txt \(content .* then, .*points\.txt \(content"):
        train(SlopeTask(points), SETTINGS, tmp_path / "run")
    train(SlopeTask(points), SETTINGS, tmp_path / "run", overwrite=True)


def test_a_task_cannot_hide_a_file_or_an_object(tmp_path: Path) -> None:
    class Hiding(LineTask):
        def __init__(self, file: str, anything: object = None) -> None:
            super().__init__()

    (tmp_path / "points.txt").touch()
    with pytest.raises(InputError, match="file=.*points.txt is there: add Path"):
        Hiding(str(tmp_path / "points.txt"))
    with pytest.raises(InputError, match="anything: a object cannot be recorded"):
        Hiding("absent/points.txt", object())


def test_overwrite_starts_again_and_leaves_other_files(tmp_path: Path) -> None:
    train(LineTask(), SETTINGS, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    hotter = replace(SETTINGS, learning_rate=0.1, steps=4)
    train(LineTask(), hotter, tmp_path, overwrite=True)
    train(LineTask(), hotter, tmp_path.with_name("new"))
    assert rows(tmp_path) == rows(tmp_path.with_name("new"))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    record = read_run(tmp_path)
    assert record is not None and record.done and record.figures.keys() == {"error"}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="loss at step"):
        train(LineTask(), replace(SETTINGS, learning_rate=float("inf")), tmp_path)


def test_saving_out_of_step_with_logging_is_refused() -> None:
    with pytest.raises(InputError, match="save_every=5.*log_every=2"):
        replace(SETTINGS, save_every=5)


class PointsTask(LineTask):
    """Without chance in the loss: every batch is one point, or all points of `together` batches."""

    def __init__(self, together: int = 1) -> None:
        super().__init__()
        self.line = nn.Sequential(nn.Linear(3, 1))
        self.together = together

    def batch(self, step: int) -> Tensor:
        numbers = range(step * self.together, (step + 1) * self.together)
        return torch.cat([torch.randn(1, 3, generator=torch.Generator().manual_seed(number)) for number in numbers])

    def losses(self, batch: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"loss": (self.line(batch) - batch.sum(1, keepdim=True)).pow(2).mean()}


class DuelTask(PointsTask, AdversarialTask):
    """The critic learns where the line is too high, and the line is pulled down there."""

    def __init__(self, together: int = 1) -> None:
        super().__init__(together)
        self.critic = nn.Linear(3, 1)

    def critic_modules(self) -> dict[str, nn.Module]:
        return {"critic": self.critic}

    def critic_losses(self, batch: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        too_high = (self.line(batch) - batch.sum(1, keepdim=True)).detach()
        return {"loss": (self.critic(batch) - too_high).pow(2).mean()}

    def losses(self, batch: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        verdict = (self.critic(batch) * self.line(batch)).mean()
        return {"loss": super().losses(batch, generator)["loss"] + verdict, "verdict": verdict}


def test_a_critic_learns_first_and_from_its_own_loss_alone(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=1, log_every=1, save_every=1)
    train(DuelTask(), settings, tmp_path)
    expected = DuelTask()
    optimizer = torch.optim.AdamW(
        expected.critic.parameters(), settings.learning_rate_at(0), settings.betas, weight_decay=settings.weight_decay
    )
    before = expected.critic_losses(expected.batch(0), torch.Generator())["loss"]
    before.backward()
    nn.utils.clip_grad_norm_(expected.critic.parameters(), settings.gradient_clip)
    optimizer.step()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name, value in expected.critic.state_dict().items():
        torch.testing.assert_close(state["critic"]["parameters"][f"critic.{name}"], value)
    logged = rows(tmp_path)[0]
    assert logged["critic_loss"] == pytest.approx(before.item())
    after = expected.losses(expected.batch(0), torch.Generator())  # the line has not moved
    assert logged["verdict"] == pytest.approx(after["verdict"].item())


def test_a_critic_is_no_part_of_what_is_made(tmp_path: Path) -> None:
    train(DuelTask(), SETTINGS, tmp_path / "duel")
    train(PointsTask(), SETTINGS, tmp_path / "plain")
    duel, plain = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("duel", "plain"))
    assert set(plain) == {"step", "parameters", "average", "optimizer"}
    assert set(duel) == {*plain, "critic"}
    assert set(duel["average"]) == set(duel["parameters"]) == set(plain["parameters"])
    records = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("duel", "plain")]
    assert records[0]["parameters"] == records[1]["parameters"] == 4


def test_a_checkpoint_without_the_critic_does_not_resume(tmp_path: Path) -> None:
    train(PointsTask(), SETTINGS, tmp_path / "plain")
    with pytest.raises(InputError, match=r"task\.class: .*PointsTask. then, .*DuelTask. now"):
        train(DuelTask(), SETTINGS, tmp_path / "plain")
    train(DuelTask(), SETTINGS, tmp_path / "duel")
    with pytest.raises(InputError, match=r"task\.class: .*DuelTask. then, .*PointsTask. now"):
        train(PointsTask(), SETTINGS, tmp_path / "duel")


@pytest.mark.slow
def test_two_processes_train_what_one_does_with_both_batches(tmp_path: Path) -> None:
    train(DuelTask(together=2), SETTINGS, tmp_path / "alone")
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_training_loop as here\n"
        f"here.train(here.DuelTask(), here.SETTINGS, {str(tmp_path / 'both')!r})\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, str(program)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    alone, both = rows(tmp_path / "alone"), rows(tmp_path / "both")
    assert [row["step"] for row in both] == [row["step"] for row in alone]
    for ours, theirs in zip(both, alone, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert json.loads((tmp_path / "both" / "training.json").read_text())["processes"] == 2


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"log_every": 0}, {"validate_every": 0}, {"save_every": 0}, {"learning_rate": -1.0}]
)
def test_settings_that_train_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"give [01] or more"):
        LoopSettings(**{"steps": 5, "learning_rate": 1e-3} | wrong)
