"""One training loop for the parts that are not language models: encoder, unit decoder, vocoder.

A task gives batches as a pure function of their number, so a run that was killed and started again reads what it
would have read, and its losses are those of an uninterrupted run. Under `torchrun` or `accelerate launch` each step
takes a batch for every process and the mean of their gradients; the first process writes. A task may have a critic,
which learns beside what is made.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from usdm.runs import publishing, write_text
from usdm.training.checks import check_at_least
from usdm.training.curves import draw_curves
from usdm.training.optimizer import Optimizer
from usdm.training.run_folder import (
    CURVES_FILE,
    LOG_FILE,
    MODEL_FOLDER,
    RECORD_FILE,
    VALIDATION,
    add_to_log,
    claim_together,
    cut_log,
    finished,
    validation_figures,
)
from usdm.training.task import AdversarialTask, TrainingTask
from usdm.types import InputError

logger = logging.getLogger(__name__)

CHECKPOINT_FILE, VALIDATION_FOLDER = "checkpoint.pt", "validation"
RESULTS = (LOG_FILE, CHECKPOINT_FILE, RECORD_FILE, CURVES_FILE, MODEL_FOLDER, VALIDATION_FOLDER)
FREE = ("log_every", "validate_every", "save_every", "threads", "device")  # these do not decide the weights


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train. Steps, not minutes: a slower machine gives the same weights."""

    steps: int
    learning_rate: float
    warmup_steps: int = 200
    final_learning_rate_share: float = 0.05  # cosine decay ends here
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    bf16: bool = False  # autocast
    log_every: int = 20
    validate_every: int = 500
    save_every: int = 200
    seed: int = 0
    threads: int | None = None  # CPU threads; None: PyTorch's default

    def __post_init__(self) -> None:
        check_at_least(1, self, "steps", "log_every", "validate_every", "save_every")
        check_at_least(0, self, "learning_rate", "warmup_steps")
        if self.save_every % self.log_every:
            raise InputError(
                f"save_every={self.save_every} is no multiple of log_every={self.log_every}: a resumed run would log "
                "other means; make it one."
            )

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to the final share."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        share = self.final_learning_rate_share
        return self.learning_rate * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def train(
    task: TrainingTask, settings: LoopSettings, output_dir: str | Path, *, overwrite: bool = False
) -> dict[str, float]:
    """Train to `settings.steps`, going on from the newest checkpoint in `output_dir` if there is one.

    Writes `log.jsonl`, `checkpoint.pt`, `validation/`, `curves.png`, `training.json`, and the averaged weights
    through `task.save(output_dir / "model")`. The folder is of one task with its arguments and the contents of its
    inputs, under one `settings`; a run that is done there is not done again.

    Args:
        overwrite: delete what another task, or other settings, left in `output_dir`.

    Returns:
        The last validation's figures.

    Raises:
        InputError: the folder is of another run, or a loss is not finite.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    folder = Path(output_dir)
    run = _Run(task, settings, folder)
    kind = type(task)
    identity = {
        "task": {"class": f"{kind.__module__}.{kind.__qualname__}", **task.arguments.settings},
        "loop": dataclasses.asdict(settings),
        "processes": run.accelerator.num_processes,  # each step takes a batch for every one
    }
    with claim_together(
        folder, identity, task.arguments.inputs, results=RESULTS, free=FREE, overwrite=overwrite
    ) as claimed:
        if finished(claimed):
            return dict(claimed.record.figures)
        figures = run.train()
        if run.accelerator.is_main_process:
            claimed.finish(figures)
    return figures


def training_device(name: str) -> str:
    """ "cuda" as this process' own GPU when several processes train on one machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name


class _Run:
    def __init__(self, task: TrainingTask, settings: LoopSettings, folder: Path) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        self.parameters = nn.ModuleDict(task.modules())
        on_cpu = next(self.parameters.parameters()).device.type == "cpu"
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="bf16" if settings.bf16 else "no")
        self.learner = self._learner(self.parameters)
        self.critic: Optimizer | None = None
        self.turns = [("", self.learner, task.losses)]  # who learns from each batch, in this order
        if isinstance(task, AdversarialTask):
            self.critic = self._learner(nn.ModuleDict(task.critic_modules()))
            self.turns.insert(0, ("critic_", self.critic, task.critic_losses))
        self.average = {name: value.detach().clone() for name, value in self.parameters.state_dict().items()}
        self.figures: dict[str, float] = {}  # of the last validation
        self.sums: dict[str, float] = {}
        self.summed = 0
        self.seconds = 0.0  # of training, over all starts
        self.clock = time.monotonic()

    def _learner(self, modules: nn.Module) -> Optimizer:
        return Optimizer(
            modules,
            self.accelerator,
            betas=self.settings.betas,
            weight_decay=self.settings.weight_decay,
            gradient_clip=self.settings.gradient_clip,
        )

    def train(self) -> dict[str, float]:
        start = self.resume()
        for row in cut_log(self.folder, start, self.accelerator.is_main_process):
            self.seconds = row.get("seconds", self.seconds)
            self.figures = validation_figures(row) or self.figures
        self.accelerator.wait_for_everyone()  # all have read the checkpoint before it is replaced
        with self.progress(start) as progress, ThreadPoolExecutor(1) as reader:
            for step, batch in self.batches(start, reader):
                self.step(step, batch)
                progress.update()
                done = step + 1
                if done % self.settings.validate_every == 0 or done == self.settings.steps:
                    self.validate(done)
                    progress.set_postfix({name: f"{value:.4g}" for name, value in self.figures.items()})
                if done % self.settings.save_every == 0 or done == self.settings.steps:
                    self.checkpoint(done)
        self.finish()
        return self.figures

    def progress(self, start: int) -> tqdm[Any]:
        name, quiet = type(self.task).__name__, not self.accelerator.is_main_process
        return tqdm(total=self.settings.steps, initial=start, desc=name, unit="step", mininterval=5, disable=quiet)

    def batches(self, start: int, reader: ThreadPoolExecutor) -> Iterator[tuple[int, Any]]:
        """Each step's batch of this process, read while the step before it is trained on."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        coming: Future[Any] | None = None
        for step in range(start, self.settings.steps):
            batch = coming.result() if coming else self.task.batch(step * processes + rank)
            if step + 1 < self.settings.steps:
                coming = reader.submit(self.task.batch, (step + 1) * processes + rank)
            yield step, batch

    def step(self, step: int, batch: Any) -> None:
        learning_rate = self.settings.learning_rate_at(step)
        seed = self.settings.seed * 1_000_003 + step + self.accelerator.process_index * 1_000_000_007
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout
        self.parameters.train()
        for prefix, learner, losses_of in self.turns:
            with self.accelerator.autocast():
                losses = losses_of(batch, generator)
            if not torch.isfinite(losses["loss"]):
                loss = losses["loss"].item()
                raise InputError(f"The {prefix}loss at step {step} is {loss}: lower the learning rate.")
            learner.learn(losses["loss"], learning_rate)
            for name, value in losses.items():
                self.sums[prefix + name] = self.sums.get(prefix + name, 0.0) + float(value.detach())
        self._average(step)
        self.summed += 1
        if (step + 1) % self.settings.log_every == 0:
            self._log(step + 1, {"learning_rate": learning_rate})

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Exponential moving average with a short memory at the start."""
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
        for name, value in self.parameters.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def validate(self, done: int) -> None:
        """In the first process; the others wait, and have no figures."""
        if self.accelerator.is_main_process:
            self.figures = self._validate(done)
        self.accelerator.wait_for_everyone()

    def _validate(self, done: int) -> dict[str, float]:
        trained = {name: value.clone() for name, value in self.parameters.state_dict().items()}
        self.parameters.load_state_dict(self.average)
        self.parameters.eval()
        pictures = self.folder / VALIDATION_FOLDER
        pictures.mkdir(exist_ok=True)
        with torch.no_grad():
            figures = dict(self.task.validate(done, pictures))
        self.parameters.load_state_dict(trained)
        self._append({"step": done, **{VALIDATION + name: value for name, value in figures.items()}})
        return figures

    def checkpoint(self, done: int) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {"step": done, "average": self.average, **self.learner.state()}
        if self.critic is not None:
            state["critic"] = self.critic.state()
        # Through an open file, for torch would write the file's passing name into it.
        with publishing(self.folder / CHECKPOINT_FILE) as part, part.open("wb") as file:
            torch.save(state, file)

    def resume(self) -> int:
        """The step to go on from."""
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            return 0
        # On the CPU first, whatever device wrote it; each tensor then goes where the one is that it replaces.
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise InputError(f"{path}: damaged ({error}); give overwrite=true to train from the start") from error
        self.learner.load_state(state)
        if self.critic is not None:
            self.critic.load_state(state["critic"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        logger.info("going on from step %d of %s", state["step"], path)
        return int(state["step"])

    def finish(self) -> None:
        if not self.accelerator.is_main_process:
            return
        self.parameters.load_state_dict(self.average)
        self.parameters.eval()
        with publishing(self.folder / MODEL_FOLDER, folder=True) as part:
            self.task.save(part)
        record = {
            "task": type(self.task).__name__,
            "settings": dataclasses.asdict(self.settings),
            "parameters": sum(parameter.numel() for parameter in self.parameters.parameters()),
            "hours": self._elapsed() / 3600,
            "processes": self.accelerator.num_processes,
            "device": platform.processor() or platform.machine(),
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "validation": self.figures,
        }
        write_text(self.folder / RECORD_FILE, json.dumps(record, indent=1) + "\n")
        draw_curves(self.folder / LOG_FILE, self.folder / CURVES_FILE)

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.clock

    def _log(self, done: int, extra: Mapping[str, float]) -> None:
        sums = torch.tensor(list(self.sums.values()), dtype=torch.float64).to(self.accelerator.device)
        shared: Any = self.accelerator.reduce(sums, "mean")
        means = {name: value / self.summed for name, value in zip(self.sums, shared.tolist(), strict=True)}
        self._append({"step": done, **means, **extra, "seconds": round(self._elapsed(), 1)})
        self.sums, self.summed = {}, 0

    def _append(self, row: Mapping[str, float]) -> None:
        if self.accelerator.is_main_process:
            add_to_log(self.folder, row)
