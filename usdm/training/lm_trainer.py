"""`transformers.Trainer` with validation by kind of token, a log file, and checkpoints that survive a kill."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils.generic import is_flash_attention_requested

from usdm.data.collation import collate_rows, flatten_rows, with_kinds
from usdm.data.packing import PackedRow
from usdm.lm.scaled_integers import scaled_layers
from usdm.tokens import IGNORED
from usdm.training.lm_attention import check_packing
from usdm.training.lm_sharding import shard_on_cpu
from usdm.training.objectives import Objective
from usdm.training.run_folder import VALIDATION, add_to_log, cut_log, validation_figures
from usdm.types import InputError

SMALLEST_AMOUNT = 1e-8  # of a step in which nothing counts


class SpeechTextTrainer(Trainer):
    """Trains on packed rows for an objective, which also says what validation tells.

    `reference` is a frozen copy of the model at the start, for objectives that need one. Before the first step of
    training on `packed` rows the trainer makes sure that sequences of a row do not see each other in this very model.
    """

    control: TrainerControl
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    model: PreTrainedModel  # under FSDP2 the one that is sharded

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        rows: IterableDataset[PackedRow],
        validation_rows: Sequence[PackedRow],
        log: TrainingLog,
        objective: Objective,
        reference: nn.Module | None = None,
        packed: bool = True,
    ) -> None:
        self.collate = flatten_rows if is_flash_attention_requested(model.config) else collate_rows
        super().__init__(
            model,
            arguments,
            data_collator=partial(with_kinds, self.collate),
            train_dataset=rows,
            eval_dataset=validation_rows,
            callbacks=[log, *([_PackingCheck(self)] if packed else []), _StepSeed()],
        )
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True  # by `compute_loss`, over all passes of a step
        self.validation_rows = validation_rows
        self.objective = objective
        self.reference = None if reference is None else reference.to(self.args.device)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Scales of integers have none: towards zero they are not simpler."""
        scales = {f"{name}.scale" for name in scaled_layers(model)}
        return [name for name in super().get_decay_parameter_names(model) if name not in scales]

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp_plugin_args is not None and not self.is_fsdp_enabled:
            shard_on_cpu(self.accelerator, self.args)
            self.is_fsdp_enabled = True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Into a checkpoint, under the names that it is read by: the hub's are others for some models (GPT-NeoX), and
        what is missing under its name would be left as it was, with a warning."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or not isinstance(self.model, PreTrainedModel):
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            self.model.save_pretrained(output_dir, save_original_format=False)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The passes of a step, and how much all processes' passes of it are together, as the objective counts."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        amount = torch.stack([self.objective.amount(batch).double() for batch in batches]).sum()
        return batches, self.accelerator.reduce(amount.to(device), "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This pass' share of the step's loss; times the processes, over which the gradients' mean is taken."""
        assert isinstance(num_items_in_batch, Tensor)
        with self.accelerator.autocast():
            loss = self.objective.loss(model, inputs, self.reference)
        step = num_items_in_batch.clamp(min=SMALLEST_AMOUNT).to(loss.dtype)
        return loss / step * self.accelerator.num_processes

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Means over the validation rows, as the objective has them."""
        self.model.eval()
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        share = _filled_up(self.validation_rows, processes)[rank::processes]
        size = self.args.per_device_train_batch_size
        sums: dict[str, Tensor] = {}
        for start in range(0, len(share), size):
            for name, figure in self._validate(share[start : start + size]).items():
                sums[name] = sums.get(name, torch.zeros_like(figure)) + figure
        self.model.train()
        whole = self.accelerator.reduce(torch.stack(list(sums.values())), "sum").tolist()
        figures = {f"eval_{name}": total / count for name, (total, count) in zip(sums, whole, strict=True) if count}
        self.log(dict(figures))  # for TensorBoard and the like
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def _validate(self, rows: Sequence[PackedRow]) -> dict[str, Tensor]:
        """Sums and counts of the objective's figures."""
        device = self.accelerator.device
        batch = {name: tensor.to(device) for name, tensor in with_kinds(self.collate, rows).items()}
        with self.accelerator.autocast():
            return self.objective.validate(self.model, batch, self.reference)


def _filled_up(rows: Sequence[PackedRow], processes: int) -> list[PackedRow]:
    """A multiple of `processes` rows: where weights are shared out, a forward needs all of them. The rest counts 0."""
    missing = -len(rows) % processes
    return [*rows, *[rows[0]._replace(labels=np.full_like(rows[0].labels, IGNORED))] * missing]


class _PackingCheck(TrainerCallback):
    """When the model lies where it is trained, in the precision and under the wrapper that it is trained in."""

    def __init__(self, trainer: SpeechTextTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        check_packing(self.trainer.model, self.trainer.collate, self.trainer.accelerator.device)


class _StepSeed(TrainerCallback):
    """Dropout is drawn from a seed of each step, so that a run that goes on draws what it would have drawn."""

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        torch.manual_seed(args.seed * 1_000_003 + state.global_step + args.process_index * 1_000_000_007)


class TrainingLog(TrainerCallback):
    """Appends to `log.jsonl`: loss, learning rate, gradient norm and tokens a second; and validation losses.

    Args:
        folder: where the file is.
        start: step to go on from; what the file has of later steps is dropped, for they are run again.
        tokens_per_step: padding included.
        writes: True in one process.
    """

    def __init__(self, folder: Path, start: int, tokens_per_step: int, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes
        self.tokens_per_step = tokens_per_step
        self.seconds = 0.0  # of training, over all starts
        self.validation: dict[str, float] = {}
        self.validated = -1  # the step of that
        for row in cut_log(folder, start, writes):
            self.seconds = row.get("seconds", self.seconds)
            if figures := validation_figures(row):
                self.validation, self.validated = figures, row["step"]
        self.clock = self.lap = time.monotonic()  # of this start; of what is logged next
        self.logged = start

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.clock = self.lap = time.monotonic()
        quiet = not self.writes
        self.progress = tqdm(total=state.max_steps, initial=self.logged, unit="step", mininterval=5, disable=quiet)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **found: Any) -> None:
        logs = found["logs"]
        if "loss" not in logs:  # the trainer's last words
            return
        if not math.isfinite(logs["loss"]):
            raise InputError(f"the loss before step {state.global_step} is {logs['loss']}: lower the learning rate")
        now = time.monotonic()
        tokens = (state.global_step - self.logged) * self.tokens_per_step
        row = {
            "step": state.global_step,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "gradient_norm": logs.get("grad_norm"),  # not every DeepSpeed engine tells it
            "tokens_per_second": round(tokens / (now - self.lap), 1),
            "seconds": round(self.elapsed(), 1),
        }
        self._append(row)
        self.progress.set_postfix(loss=f"{logs['loss']:.4g}", refresh=False)
        self.progress.update(state.global_step - self.progress.n)
        self.lap, self.logged = now, state.global_step

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **found: Any) -> None:
        self.validation = {name.removeprefix("eval_"): value for name, value in found["metrics"].items()}
        self.validated = state.global_step
        losses = {VALIDATION + name: value for name, value in self.validation.items()}
        self._append({"step": state.global_step, **losses})
        self.lap = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.lap = time.monotonic()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.close()

    def elapsed(self) -> float:
        """Seconds of training, over all starts."""
        return self.seconds + time.monotonic() - self.clock

    def _append(self, row: Mapping[str, float | None]) -> None:
        if self.writes:
            add_to_log(self.folder, row)


def newest_checkpoint(folder: Path) -> tuple[Path | None, int]:
    """The newest complete checkpoint and its step; (None, 0) if there is none.

    The trainer writes its state last, so a checkpoint that a kill cut off has none.
    """
    complete: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            state = json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        complete.append((state["global_step"], path))
    if not complete:
        return None, 0
    step, newest = max(complete)
    return newest, step
