"""Causal language models over the speech-text vocabulary: any decoder of `transformers`, built or loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from usdm.checkpoint import read_config
from usdm.lm.mistral import LanguageModel, read_mistral
from usdm.lm.quantization import (
    Quantization,
    bitsandbytes_config,
    check_quantization,
    floats_in_single_precision,
    quantize_to_int8,
)
from usdm.lm.task_scales import TaskScales, to_infer
from usdm.tokens import SpeechTextVocabulary
from usdm.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEFAULT_INITIALIZER_RANGE = 0.02  # standard deviation, where a configuration names none


def build_model(vocabulary: SpeechTextVocabulary, model_type: str = "mistral", **settings: Any) -> PreTrainedModel:
    """A model with random weights; `settings` are those of the type's `transformers` configuration.

    Raises InputError for an unknown type or setting, and for a value that it cannot have.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        known = AutoConfig.for_model(model_type).to_dict()
    except ValueError as error:
        raise InputError(f"model_type={model_type!r}: transformers has no such model") from error
    if unknown := sorted(settings.keys() - known.keys()):
        known_names = ", ".join(sorted(known))
        raise InputError(f"{', '.join(unknown)}: {model_type} has no such setting, only {known_names}")
    tokenizer = vocabulary.tokenizer
    try:
        config = AutoConfig.for_model(
            model_type,
            vocab_size=len(vocabulary),
            # XGLM makes the position of that number zero, wherever the tokenizer has its pad
            pad_token_id=None if model_type == "xglm" else vocabulary.pad_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **settings,
        )
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except (StrictDataclassError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"no {model_type} can be built with {settings}: {error!r}") from error
    return model.eval()


def load_model(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    attention: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """The model in `folder` with all that `transformers` can do with it, ready to generate.

    `dtype` None keeps the stored precision, except that float16 becomes float32 on a CPU, which computes it
    slowly and coarsely. `attention` is an implementation's name ("eager", "sdpa", "flash_attention_2", ...);
    `device_map` spreads a model over devices instead of `device`. `quantization` keeps the weights of all layers
    but the head in 8 or 4 bits: on GPUs by package bitsandbytes, on a CPU in 8 bits by `Int8Linear`. Raises
    InputError if files are missing, damaged, or do not fit each other, or if that quantization cannot be had.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM

    on_cpu = torch.device(device).type == "cpu" and device_map in (None, "cpu")
    if dtype is None and on_cpu and stored_dtype(read_config(folder)) == "float16":
        dtype = torch.float32
    options: dict[str, Any] = {}
    if quantization is not None:
        check_quantization(quantization, on_cpu)
        if not on_cpu:
            options["quantization_config"] = bitsandbytes_config(quantization, dtype or torch.bfloat16)
    if device_map is None and not on_cpu and (quantization is not None or find_spec("accelerate") is not None):
        device_map = {"": str(device)}  # straight there, and quantized on the way, without a copy in main memory
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        with no_progress_bar():
            model, report = load(
                str(folder),
                dtype=dtype or "auto",
                attn_implementation=attention,
                device_map=device_map,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except (SafetensorError, StrictDataclassError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder}: no causal language model can be read there ({error})") from error
    if wrong := sorted([*report["missing_keys"], *report["unexpected_keys"]]):
        raise InputError(
            f"{folder}: weights and config.json differ in {', '.join(wrong[:5])}: download the model again"
        )
    if quantization is not None and on_cpu:
        quantize_to_int8(model)
        if dtype is None:
            floats_in_single_precision(model)
    placed: PreTrainedModel = model if device_map is not None else model.to(device)
    return placed.eval()


def load_for_generation(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    attention: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    quantization: Quantization | None = None,
    scales: str | Path | None = None,
) -> LanguageModel:
    """`load_model`, for those who only generate: of a Mistral in single precision on a CPU, the weights alone.

    Arguments and errors as there; `in_transformers` makes the one of the other. `scales` is a folder of
    `usdm.lm.task_scales`: the model is rounded as they want it, and computes with them. InputError if they are not
    this model's.
    """
    if scales is not None:
        return _load_scaled(folder, scales, device, dtype, attention, device_map, quantization)
    stored = read_config(folder)
    is_single = dtype == torch.float32 or (dtype is None and stored_dtype(stored) in ("float16", "float32"))
    if is_single and torch.device(device).type == "cpu" and (attention, device_map, quantization) == (None,) * 3:
        model = read_mistral(folder, stored)
        if model is not None:
            return model
    return load_model(folder, device, dtype, attention=attention, device_map=device_map, quantization=quantization)


def _load_scaled(
    folder: str | Path,
    scales: str | Path,
    device: str | torch.device,
    dtype: torch.dtype | None,
    attention: str | None,
    device_map: str | dict[str, Any] | None,
    quantization: Quantization | None,
) -> PreTrainedModel:
    if quantization not in (None, "int8"):
        raise InputError(
            f"quantization={quantization!r}: these scales are of integers already; take int8, which computes with "
            "them, or null"
        )
    task = TaskScales.load(scales)
    model = load_model(folder, device, attention=attention, device_map=device_map)  # rounded from what is stored
    task.put_into(model, folder)
    return to_infer(model, dtype or model.dtype, quantized=quantization is not None)


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Loading takes a moment, and stderr is for what the user must know."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def count_parameters(folder: str | Path) -> int:
    """Of the model in `folder`, told from the heads of its files of weights. Raises InputError if one is damaged."""
    total = 0
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as weights:
                total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: damaged or cut off ({error}); download the model again") from error
    return total


def stored_dtype(config: Mapping[str, Any]) -> str | None:
    """The precision of a model's weights, as its `config.json` has it."""
    return config.get("dtype") or config.get("torch_dtype")


def extend_embeddings(
    model: PreTrainedModel,
    vocabulary: SpeechTextVocabulary,
    strategy: Literal["normal", "mean"] = "normal",
    seed: int = 0,
) -> None:
    """Give the model a row for every id, drawing new rows for all that is not the base tokenizer's text.

    "normal": as published, zero mean and the configuration's standard deviation. "mean": the mean of the text
    rows, so that at first speech is as likely as an average piece of text. Raises InputError if the model has
    fewer rows than the base tokenizer has ids.
    """
    first = vocabulary.layout.text_size
    if num_rows(model) < first:
        raise InputError(
            f"the model has {num_rows(model)} rows for {first} text ids: take the tokenizer it was made with"
        )
    model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
    deviation = getattr(model.config, "initializer_range", DEFAULT_INITIALIZER_RANGE)
    generator = torch.Generator().manual_seed(seed)
    modules: Any = (model.get_input_embeddings(), model.get_output_embeddings())
    for module in modules:
        rows: Tensor = module.weight.data
        if strategy == "mean":
            rows[first:] = rows[:first].float().mean(dim=0).to(rows.dtype)
        elif strategy == "normal":
            drawn = torch.randn(rows[first:].shape, generator=generator) * deviation
            rows[first:] = drawn.to(rows.device, rows.dtype)
        else:
            raise InputError(f"strategy={strategy!r}: there are 'normal' and 'mean'")


def change_vocabulary(
    model: PreTrainedModel, before: SpeechTextVocabulary, after: SpeechTextVocabulary, seed: int = 0
) -> int:
    """Give a speech-text model another tokenizer: rows of tokens that both have are kept (units and tags, and pieces of
    text with the same spelling), the others drawn with zero mean and the configuration's standard deviation.

    Returns how many were kept. Raises InputError if the model has not `before`'s size, or `after` has other units.
    """
    check_model(model, before)
    if before.num_units != after.num_units:
        raise InputError(
            f"the model knows {before.num_units} units, the new tokenizer {after.num_units}: give it the same number"
        )
    known = before.tokenizer.get_vocab()
    pairs = [(known[token], id_) for token, id_ in after.tokenizer.get_vocab().items() if token in known]
    old, new = (torch.tensor(ids) for ids in zip(*sorted(pairs), strict=True))
    kept = [module.weight.data[old].clone() for module in _embeddings(model)]
    model.resize_token_embeddings(len(after), mean_resizing=False)
    deviation = getattr(model.config, "initializer_range", DEFAULT_INITIALIZER_RANGE)
    generator = torch.Generator().manual_seed(seed)
    for module, rows in zip(_embeddings(model), kept, strict=True):
        drawn = torch.randn(module.weight.shape, generator=generator) * deviation
        module.weight.data = drawn.to(rows.device, rows.dtype).index_copy(0, new, rows)
    tokenizer = after.tokenizer
    model.config.pad_token_id = after.pad_id
    model.config.bos_token_id, model.config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    return len(pairs)


def _embeddings(model: PreTrainedModel) -> list[Any]:
    """Of input and output, which may share their rows."""
    both: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    return both[:1] if both[0].weight is both[1].weight else both


def num_rows(model: LanguageModel) -> int:
    """Ids that the model has an embedding for."""
    embedding: Any = model.get_input_embeddings()
    return len(embedding.weight)


def max_positions(model: LanguageModel) -> int | None:
    """Longest sequence in ids that the model was made for, or None if its configuration sets no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def check_model(model: LanguageModel, vocabulary: SpeechTextVocabulary) -> None:
    """Raises InputError that names both sides if model and vocabulary differ in size."""
    if num_rows(model) != len(vocabulary):
        raise InputError(
            f"the model has {num_rows(model)} rows, its tokenizer {len(vocabulary)} ids "
            f"({vocabulary.layout.text_size} text, {vocabulary.num_units} units): take both from one place"
        )
