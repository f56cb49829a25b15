"""Training a few weights instead of all (LoRA, arXiv 2106.09685, and what else the package `peft` offers)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from usdm.types import InputError


def with_adapter(model: PreTrainedModel, adapter: Any) -> PreTrainedModel:
    """`model` with the weights of a `peft` configuration to be trained in it; as it is where there is none.

    Its `modules_to_save` may name `input_embeddings` and `output_embeddings`, whatever the model calls them. A head
    that is one with the embeddings stays so.

    Raises:
        InputError: the embeddings are to be trained whole, are one with the head, and this kind of adapter would part
            them.
    """
    if adapter is None:
        return model
    from peft import get_peft_model

    settings = deepcopy(adapter)  # which is filled in for this model
    if getattr(settings, "modules_to_save", None):
        settings.modules_to_save = _named_modules(model, settings.modules_to_save)
        if model.get_input_embeddings().weight is model.get_output_embeddings().weight:
            if not hasattr(settings, "ensure_weight_tying"):
                raise InputError(
                    f"adapter={type(settings).__name__}: this model's head is its embeddings, which peft keeps so for "
                    "LoRA alone; take LoRA, or leave modules_to_save empty"
                )
            settings.ensure_weight_tying = True
    wrapped: Any = get_peft_model(model, settings)
    return wrapped


def _named_modules(model: PreTrainedModel, wanted: Sequence[str]) -> list[str]:
    embeddings = {
        "input_embeddings": model.get_input_embeddings(),
        "output_embeddings": model.get_output_embeddings(),
    }
    names = {module: name.rpartition(".")[2] for name, module in model.named_modules()}
    return [names[embeddings[name]] if name in embeddings else name for name in wanted]


def adapter_record(adapter: Any) -> dict[str, Any] | None:
    """Its settings as JSON can hold them."""
    if adapter is None:
        return None
    return {key: sorted(value) if isinstance(value, set) else value for key, value in adapter.to_dict().items()}


def finished_model(
    config: PretrainedConfig, weights: Mapping[str, Tensor], adapter: Any, dtype: torch.dtype
) -> PreTrainedModel:
    """A model of its own with the trained weights, an adapter's merged into it, stored in `dtype`.

    The trained model may lie in parts on several devices; `weights` are those of all of it, under its names.
    """
    config = deepcopy(config)
    config.use_cache = True  # training turns it off; the generation config is made from this one
    with torch.device("meta"):
        model: Any = with_adapter(AutoModelForCausalLM.from_config(config), adapter)
    model.load_state_dict(weights, assign=True)
    if adapter is not None:
        model = model.float().merge_and_unload()  # to be rounded once, not weight and update each
    finished: PreTrainedModel = model.to(dtype=dtype)
    return finished
