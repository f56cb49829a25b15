"""What training a language model will take, told before anything is built: tokens, hours, disk, memory.

Model FLOPs are counted as in PaLM (arXiv 2204.02311, appendix B): 6 for each weight that multiplies and token, and
12 x layers x width x row for attention; an adapter spares the gradients of the weights it leaves alone, a third of
that. Memory is that of weights, gradients and AdamW's moments, in float32, which is exact, and of activations, an
estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from usdm.lm.adapters import check_mergeable, num_weights, with_adapter
from usdm.lm.scaled_integers import scaled_layers
from usdm.training.lm_settings import LanguageModelSettings
from usdm.types import InputError

BYTES_PER_UNIT = 2.6  # of a Parquet unit corpus: uint16, hardly compressible, and words beside it
TOKENS_PER_UNIT = 1.15  # of interleaved sequences, text included
STATE_BYTES = 16  # a trained weight with its gradient and two moments, in float32
COPY_BYTES = 2  # of a trained weight in bfloat16, which autocast keeps from its first product to the backward pass
FROZEN_BYTES = {True: 2, False: 4}  # a weight that is only read; whether anything computes in bfloat16
LAYER_BYTES = 34  # of activations for each token and unit of width, within a layer (arXiv 2205.05198)


@dataclass(frozen=True)
class Gpu:
    """From the makers' data sheets."""

    flops: float  # a second, dense bf16
    memory: float  # bytes


GPUS = {
    "H200": Gpu(989e12, 141e9),
    "H100": Gpu(989e12, 80e9),
    "A100": Gpu(312e12, 80e9),
    "L40S": Gpu(362e12, 48e9),
    "L4": Gpu(121e12, 24e9),
    "RTX 4090": Gpu(165e12, 24e9),
}


@dataclass(frozen=True)
class TrainingPlan:
    parameters: int
    trained_parameters: int
    integers: int  # of the parameters, those that are frozen whole numbers
    integer_bits: int  # that each of them needs on disk; in memory it has a byte
    tokens: int  # that the steps read
    corpus_tokens: int  # that the corpus holds, about
    steps: int
    hours: float  # on all GPUs together, at the stated efficiency
    gpu: str
    processes: int
    efficiency: float  # model FLOPs utilisation, 0..1
    corpus_bytes: int  # of the unit corpus on disk, about
    checkpoint_bytes: int  # of one checkpoint on disk
    state_bytes: int  # a process: weights, gradients, moments; autocast's copies
    activation_bytes: int  # a process, an estimate
    gpu_bytes: int

    @property
    def epochs(self) -> float:
        return self.tokens / self.corpus_tokens

    @property
    def fits(self) -> bool:
        return self.state_bytes + self.activation_bytes <= self.gpu_bytes


def plan_training(
    architecture: PretrainedConfig,
    settings: LanguageModelSettings,
    *,
    adapter: Any = None,
    corpus_hours: float,
    unit_rate: float,
    gpu: str = "H200",
    processes: int = 8,
    efficiency: float = 0.4,
) -> TrainingPlan:
    """Args:
        architecture: the model's `transformers` configuration, its vocabulary with speech tokens.
        adapter: a configuration of the package `peft` or of `usdm.lm.adapters`, or None for all weights.
        corpus_hours: of speech.
        unit_rate: Hz.
        processes: one for each GPU.
        efficiency: model FLOPs utilisation that is counted on.

    Raises:
        InputError: an unknown GPU, an efficiency or number that cannot be, or an adapter for classifiers alone.
    """
    if gpu not in GPUS:
        raise InputError(f"gpu={gpu}: there are {', '.join(GPUS)}")
    if not 0 < efficiency <= 1 or processes < 1 or corpus_hours <= 0:
        raise InputError(
            f"efficiency={efficiency}, processes={processes}, corpus_hours={corpus_hours}: give a share of 1, "
            "at least 1 process, and some hours"
        )
    check_mergeable(adapter)
    model = _skeleton(architecture, adapter)
    parameters = num_weights(model)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    integers = sum(layer.integers.numel() for layer in scaled_layers(model).values())
    tokens = (
        settings.steps * settings.batch_size * settings.gradient_accumulation_steps * processes * settings.max_length
    )
    units = corpus_hours * 3600 * unit_rate
    seconds = tokens * flops_per_token(model, settings.max_length, adapter is not None)
    seconds /= GPUS[gpu].flops * efficiency * processes
    shared = 1 if settings.sharding == "none" else processes
    return TrainingPlan(
        parameters=parameters,
        trained_parameters=trained,
        integers=integers,
        integer_bits=adapter.bits if integers else 0,
        tokens=tokens,
        corpus_tokens=int(units * TOKENS_PER_UNIT),
        steps=settings.steps,
        hours=seconds / 3600,
        gpu=gpu,
        processes=processes,
        efficiency=efficiency,
        corpus_bytes=int(units * BYTES_PER_UNIT),
        checkpoint_bytes=trained * 12,  # weights and two moments, in float32
        state_bytes=_state_bytes(trained, parameters - trained - integers, integers, settings, shared),
        activation_bytes=_activation_bytes(model, settings),
        gpu_bytes=int(GPUS[gpu].memory),
    )


def _state_bytes(trained: int, frozen: int, integers: int, settings: LanguageModelSettings, shared: int) -> int:
    """Where weights are shared out over processes, only a layer at a time is there whole, in bfloat16."""
    copied = COPY_BYTES if settings.bf16 and settings.sharding == "none" else 0
    read = frozen * FROZEN_BYTES[settings.bf16] + integers
    return math.ceil((trained * (STATE_BYTES + copied) + read) / shared)


def flops_per_token(model: PreTrainedModel, max_length: int, adapter: bool) -> float:
    """Of a forward and a backward pass. Rows are taken as one sequence, which packing only makes less."""
    config: Any = model.config.get_text_config()
    embedding: Any = model.get_input_embeddings()
    multiplied = num_weights(model) - (0 if config.tie_word_embeddings else embedding.weight.numel())
    attention = 12 * config.num_hidden_layers * config.hidden_size * max_length
    return (6 * multiplied + attention) * (2 / 3 if adapter else 1)


def _skeleton(architecture: PretrainedConfig, adapter: Any) -> PreTrainedModel:
    """The model without memory, the adapter's weights in it."""
    with torch.device("meta"):
        return with_adapter(AutoModelForCausalLM.from_config(architecture), adapter)


def _activation_bytes(model: PreTrainedModel, settings: LanguageModelSettings) -> int:
    """What the backward pass needs of the forward: of all layers, or, checkpointed, of one and the others' inputs."""
    config: Any = model.config.get_text_config()
    positions = settings.batch_size * settings.max_length
    layer = LAYER_BYTES * positions * config.hidden_size
    inputs = 2 * positions * config.hidden_size * config.num_hidden_layers
    layers = inputs + layer if settings.gradient_checkpointing else layer * config.num_hidden_layers
    logits = 2 * 4 * positions * config.vocab_size  # and their gradient, in float32
    return layers + logits
