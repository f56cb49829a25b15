"""The model that a verb was asked to use."""

from __future__ import annotations

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from usdm.chain import SpokenDialogPipeline
from usdm.types import InputError

# Below this many parameters a token's arithmetic is shorter than threads take to meet, and if anything else runs
# on the machine they wait for each other.
SMALL_MODEL = 50_000_000


def load_model(config: DictConfig) -> SpokenDialogPipeline:
    """`config.model` on `config.device`. Raises InputError if the device is not there or a part is missing."""
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device={config.device} cannot be used ({reason}): take device=cpu") from error
    disable_progress_bar()  # loading takes a moment, and stderr is for what the user must know
    dtype = None if config.dtype is None else getattr(torch, config.dtype.value)
    pipeline: SpokenDialogPipeline = instantiate(config.model, _convert_="all")(device=config.device, dtype=dtype)
    threads = config.threads
    if threads is None and pipeline.parts.llm.num_parameters() < SMALL_MODEL:
        threads = 1
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads={threads}: give 1 or more, or null")
        torch.set_num_threads(threads)
    return pipeline
