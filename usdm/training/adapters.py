"""Training a few weights instead of all (LoRA, arXiv 2106.09685, and what else the package `peft` offers)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel


def with_adapter(model: PreTrainedModel, adapter: Any) -> PreTrainedModel:
    """`model` with the weights of a `peft` configuration to be trained in it; as it is where there is none."""
    if adapter is None:
        return model
    from peft import get_peft_model

    wrapped: Any = get_peft_model(model, deepcopy(adapter))  # which it fills in for this model
    return wrapped


def adapter_record(adapter: Any) -> dict[str, Any] | None:
    """Its settings as JSON can hold them."""
    if adapter is None:
        return None
    return {key: sorted(value) if isinstance(value, set) else value for key, value in adapter.to_dict().items()}


def finished_model(
    config: PretrainedConfig, weights: Mapping[str, Tensor], adapter: Any, dtype: torch.dtype | None
) -> PreTrainedModel:
    """A model of its own with the trained weights, an adapter's merged into it, stored in `dtype` if one is given.

    The trained model may lie in parts on several devices; `weights` are those of all of it, under its names.
    """
    config = deepcopy(config)
    config.use_cache = True  # training turns it off; the generation config is made from this one
    with torch.device("meta"):
        model: Any = with_adapter(AutoModelForCausalLM.from_config(config), adapter)
    model.load_state_dict(weights, assign=True)
    if adapter is not None:
        model = model.merge_and_unload()
    finished: PreTrainedModel = model if dtype is None else model.to(dtype=dtype)
    return finished
