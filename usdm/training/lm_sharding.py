"""Weights, gradients and moments shared out over processes, where no device could hold them whole."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainingArguments

# The published size needs one of these: 7 B parameters with their gradients and AdamW's moments are 112 GB.
FSDP2 = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "SHARDED_STATE_DICT"}
ZERO3: dict[str, Any] = {
    "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
    "bf16": {"enabled": "auto"},
    "gradient_clipping": "auto",
    "gradient_accumulation_steps": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}


def sum_gradients_in_float32(arguments: TrainingArguments) -> None:
    """Let FSDP2 compute in bfloat16 and do nothing else in it.

    By itself it would add up gradients, over processes and accumulated passes, and round the loss in bfloat16.
    """
    if arguments.fsdp_plugin_args is not None and arguments.bf16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        arguments.fsdp_plugin_args["mixed_precision_policy"] = policy


def shard_on_cpu(accelerator: Accelerator, arguments: TrainingArguments) -> None:
    """Make FSDP2 what it is on every other device: `accelerate` would keep whole copies on CPUs without a word."""
    state = {
        "distributed_type": DistributedType.FSDP,
        "fsdp_plugin": FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args),
    }
    accelerator.state.__dict__.update(state)  # which all its instances share
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
