"""How a speech-text language model is trained, whatever it is trained on.

Under `torchrun` or `accelerate launch` every process trains on its share of each step's rows; `sharding` then says
whether the processes hold whole copies of the weights or parts of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from usdm.training.checks import check_at_least
from usdm.training.lm_sharding import FSDP2, ZERO3, sum_gradients_in_float32
from usdm.types import InputError


@dataclass(frozen=True)
class LanguageModelSettings:
    """Defaults are the published ones, except for size: rows, steps and precision are a matter of the machine."""

    steps: int
    learning_rate: float = 2e-5
    schedule: Literal["cosine", "constant"] = "cosine"
    final_learning_rate_share: float = 0.0  # cosine decay ends here
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    max_length: int = 8192  # ids a row
    batch_size: int = 1  # a forward and backward pass, on each device
    gradient_accumulation_steps: int = 1  # passes a step
    bf16: bool = False  # arithmetic; the weights that are trained are float32 in any case
    gradient_checkpointing: bool = False
    compile: bool = False  # torch.compile
    sharding: Literal["none", "fsdp2", "zero3"] = "none"  # over processes; zero3 needs DeepSpeed
    liger: bool = False  # fused kernels of the package liger-kernel, on a GPU
    log_every: int = 10
    validate_every: int | None = None  # None: only at the end
    validation_rows: int = 64  # at most so many rows of the split "dev"
    save_every: int = 500
    kept_checkpoints: int = 2
    report_to: tuple[str, ...] = ("tensorboard",)  # "wandb", ...
    workers: int = 0  # 1: rows are made in a process beside the training
    threads: int | None = None  # CPU threads; None: PyTorch's default
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, self, "steps", "max_length", "batch_size", "gradient_accumulation_steps")
        check_at_least(1, self, "log_every", "save_every", "kept_checkpoints")
        check_at_least(0, self, "learning_rate", "warmup_steps")
        for name in ("save_every", "validate_every"):
            value = getattr(self, name)
            if value is not None and value % self.log_every:
                raise InputError(
                    f"{name}={value} is no multiple of log_every={self.log_every}: a resumed run would log other "
                    "means; make it one"
                )

    def arguments(self, output_dir: Path) -> TrainingArguments:
        """The same for `transformers.Trainer`.

        Raises:
            InputError: FSDP2 without a launcher of processes.
        """
        cosine = self.schedule == "cosine"
        arguments = TrainingArguments(
            output_dir=str(output_dir),
            max_steps=self.steps,
            learning_rate=self.learning_rate,
            lr_scheduler_type="cosine_with_min_lr" if cosine else "constant_with_warmup",
            lr_scheduler_kwargs={"min_lr_rate": self.final_learning_rate_share} if cosine else {},
            warmup_steps=self.warmup_steps,
            optim="adamw_torch_fused",
            adam_beta1=self.betas[0],
            adam_beta2=self.betas[1],
            weight_decay=self.weight_decay,
            max_grad_norm=self.gradient_clip,
            per_device_train_batch_size=self.batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            bf16=self.bf16,
            torch_compile=self.compile,
            use_liger_kernel=self.liger,
            fsdp=self.sharding == "fsdp2",
            fsdp_config=FSDP2 | {"activation_checkpointing": self.gradient_checkpointing},
            deepspeed=ZERO3 if self.sharding == "zero3" else None,
            # Under FSDP its own checkpointing does the same with less traffic.
            activation_checkpointing=self.gradient_checkpointing and self.sharding != "fsdp2",
            logging_steps=self.log_every,
            logging_nan_inf_filter=False,
            eval_strategy="steps" if self.validate_every else "no",
            eval_steps=self.validate_every,
            save_steps=self.save_every,
            save_total_limit=self.kept_checkpoints,
            report_to=list(self.report_to) or "none",
            dataloader_num_workers=self.workers,
            dataloader_pin_memory=torch.cuda.is_available(),
            # Rows are skipped where they are made, and every process reads the same order and takes its share.
            ignore_data_skip=True,
            ddp_find_unused_parameters=False,  # every row uses all weights, so there is nothing to search for
            accelerator_config={
                "dispatch_batches": False,
                "split_batches": False,
                # Sharded gradients of several passes are summed as shards: whole ones may not fit beside the weights.
                "gradient_accumulation_kwargs": {"sync_each_batch": True} if self.sharding == "fsdp2" else None,
            },
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            seed=self.seed,
        )
        if self.sharding == "fsdp2" and arguments.parallel_mode != ParallelMode.DISTRIBUTED:
            raise InputError(
                "sharding=fsdp2 shares the weights out over processes: start them with torchrun --nproc-per-node N (1 "
                "will do), or set sharding=none"
            )
        sum_gradients_in_float32(arguments)
        return arguments
