"""The training loop: exact resume, averaging, honest refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from usdm.training.loop import LoopSettings, train
from usdm.types import InputError

SETTINGS = LoopSettings(
    steps=12, learning_rate=0.05, warmup_steps=3, log_every=2, save_every=4, validate_every=6, ema_decay=0.9, threads=1
)


class LineTask:
    """Fits a line to noisy points; dropout and a drawn noise make every source of randomness count."""

    def __init__(self, stop_at: int | None = None) -> None:
        torch.manual_seed(7)
        self.line = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.stop_at = stop_at

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


def rows(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("stop_at", [5, 9])
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path: Path, stop_at: int) -> None:
    whole = train(LineTask(), SETTINGS, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(LineTask(stop_at), SETTINGS, tmp_path / "killed")
    resumed = train(LineTask(), SETTINGS, tmp_path / "killed")
    assert resumed == whole
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    left, right = (torch.load(tmp_path / name / "model/line.pt", weights_only=True) for name in ("whole", "killed"))
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=0, atol=0)


def test_a_checkpoint_of_another_device_goes_on_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(LineTask(), SETTINGS, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")  # what the file says of tensors
        train(LineTask(9), SETTINGS, tmp_path / "killed")
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
    with pytest.raises(InputError, match=r"learning_rate.*0\.05.*0\.1"):
        train(LineTask(), replace(SETTINGS, learning_rate=0.1), tmp_path)


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


class DuelTask(PointsTask):
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
    assert set(plain) == {"step", "seconds", "settings", "parameters", "average", "optimizer"}
    assert set(duel) == {*plain, "critic"}
    assert set(duel["average"]) == set(duel["parameters"]) == set(plain["parameters"])
    records = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("duel", "plain")]
    assert records[0]["parameters"] == records[1]["parameters"] == 4


def test_a_checkpoint_without_the_critic_does_not_resume(tmp_path: Path) -> None:
    train(PointsTask(), SETTINGS, tmp_path / "plain")
    with pytest.raises(InputError, match=r"holds no critic.*DuelTask"):
        train(DuelTask(), SETTINGS, tmp_path / "plain")
    train(DuelTask(), SETTINGS, tmp_path / "duel")
    with pytest.raises(InputError, match=r"holds a critic.*PointsTask"):
        train(PointsTask(), SETTINGS, tmp_path / "duel")


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
