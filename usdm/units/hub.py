"""SSL encoders in transformers' layout, from the hub or a local folder, up to the layer that units come from."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers.utils import logging

import usdm.units.log_mel  # noqa: F401 (makes its kind known to AutoConfig)
from usdm.runs import split_revision
from usdm.types import InputError
from usdm.units.encoder import check_kind, encoder_class, keep_layers

UNREADABLE = (
    OSError,
    HFValidationError,
    StrictDataclassError,
    SafetensorError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    TypeError,
)


def load_hub_encoder(name: str | Path, layer: int, pickled: bool = False) -> PreTrainedModel:
    """The encoder up to `layer` (0-based), float32; layers above it are not allocated.

    Args:
        name: a hub name, with @REVISION if need be, or a local folder of a model with or without a head.
        pickled: read `pytorch_model.bin` too, by torch's unpickler of tensors alone.

    Raises:
        InputError: it cannot be had or read, is of another kind, or has no such layer.
    """
    config = hub_config(name)
    check_kind(config.model_type, name)
    if layer >= config.num_hidden_layers:
        raise InputError(
            f"{name} has {config.num_hidden_layers} layers, so there is no layer {layer} (0-based): choose one up to "
            f"{config.num_hidden_layers - 1}."
        )
    config.num_hidden_layers = layer + 1
    try:
        with quiet():
            repository, revision = split_revision(name)
            encoder, report = encoder_class(config.model_type).from_pretrained(
                repository,
                revision=revision,
                config=config,
                dtype=torch.float32,
                use_safetensors=None if pickled else True,
                output_loading_info=True,
            )
    except UNREADABLE as error:
        raise InputError(
            f"{name}: the weights cannot be read, are damaged, or hold more than tensors ({first_line(error)}). "
            "Weights in a pytorch_model.bin, which is pickled, are read with pickled=true alone."
        ) from error
    encoder = keep_layers(encoder, layer + 1)
    if missing := sorted(set(report["missing_keys"]) & set(encoder.state_dict())):
        raise InputError(
            f"{name}: the weights lack {missing[:3]} ({len(missing)} in all): they are not this encoder's."
        )
    return encoder


def preprocessing(name: str | Path) -> tuple[bool, int]:
    """Whether the encoder wants normalised waveforms, and their sample rate in Hz.

    Raises:
        InputError: the encoder cannot be had, or has no `preprocessor_config.json`.
    """
    hub_config(name)
    try:
        repository, revision = split_revision(name)
        preprocessor = Wav2Vec2FeatureExtractor.from_pretrained(repository, revision=revision)
    except UNREADABLE as error:
        raise InputError(
            f"{name}: no preprocessor_config.json, which says whether waveforms are normalised: add the one that was "
            f"published with the encoder ({first_line(error)})."
        ) from error
    return preprocessor.do_normalize, preprocessor.sampling_rate


def hub_config(name: str | Path) -> PreTrainedConfig:
    """Raises InputError if there is no such model, here or on the hub."""
    try:
        repository, revision = split_revision(name)
        return AutoConfig.from_pretrained(repository, revision=revision)
    except UNREADABLE as error:
        raise InputError(
            f"{name} is neither a folder of a transformers model (looked for {Path(name).absolute()}) nor to be had "
            f"from the hub ({first_line(error)}): download it, and give the local folder instead."
        ) from error


def first_line(error: Exception) -> str:
    """The part of a library's message that fits into ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bar, and its report of the layers that are left out on purpose."""
    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()
