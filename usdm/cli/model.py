"""The model that a verb was asked to use, and how it is loaded."""

from __future__ import annotations

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from usdm.asr.recogniser import Recogniser
from usdm.chain import LoadOptions, SpokenDialogPipeline
from usdm.chain.choosing import MakeChooser
from usdm.config import Precision
from usdm.types import InputError

# Below this many parameters a token's arithmetic is shorter than threads take to meet, and if anything else runs
# on the machine they wait for each other.
SMALL_MODEL = 50_000_000


def load_pipeline(config: DictConfig) -> SpokenDialogPipeline:
    """`config.model`, loaded as the configuration says. Raises InputError if a device or a part is missing."""
    if config.threads is not None and config.threads < 1:
        raise InputError(f"threads={config.threads}: give 1 or more, or null")
    options = load_options(config)
    options.check()  # before anything is downloaded
    pipeline: SpokenDialogPipeline = instantiate(config.model, _convert_="all")(options=options)
    threads = config.threads
    if threads is None and pipeline.parts.llm.num_parameters() < SMALL_MODEL:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    if "reject" in config:
        pipeline.refuse_by(instantiate(config.reject))
    return pipeline


def load_asr(config: DictConfig) -> Recogniser:
    """`config.asr`: the recogniser that judges. Raises InputError if it cannot be had."""
    recogniser: Recogniser = instantiate(config.asr, _convert_="all")
    return recogniser


def chooser(config: DictConfig) -> MakeChooser | None:
    """`config.choose`: who chooses among several answers."""
    make: MakeChooser | None = instantiate(config.choose, _convert_="all")
    return make


def load_options(config: DictConfig) -> LoadOptions:
    """The keys of `conf/loading`; whether they can be met here is not checked."""
    return LoadOptions(
        device=config.device,
        dtype=precision(config.dtype),
        device_map=config.device_map,
        quantization=config.quantization and config.quantization.value,
        attention=config.attention,
        decoder_dtype=precision(config.decoder_dtype),
        vocoder_cuda_kernel=config.vocoder_cuda_kernel,
    )


def precision(name: Precision | None) -> torch.dtype | None:
    return None if name is None else getattr(torch, name.value)
