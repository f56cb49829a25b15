"""Training a few weights instead of all: what the package `peft` offers (LoRA, arXiv 2106.09685, and others), and kinds
of our own beside it.

`with_adapter` takes all of them, and everything that it leaves trainable is the adapter's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from usdm.lm.bottleneck import add_bottlenecks
from usdm.lm.prompt_tokens import add_prompt_tokens
from usdm.lm.scaled_integers import in_floats, scale_linears, scaled_layers
from usdm.tokens import SpeechTextVocabulary, TemplateSettings
from usdm.types import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@runtime_checkable
class OwnAdapter(Protocol):
    """A kind that `peft` does not have: a frozen dataclass of settings."""

    def insert(self, model: PreTrainedModel) -> PreTrainedModel:
        """Put the adapter's weights into a model all of whose weights are frozen; only they are trained then."""

    def merge(self, model: PreTrainedModel) -> PreTrainedModel:
        """An inserted model as one of its ordinary kind, which computes the same. Raises InputError if it has none."""


@dataclass(frozen=True)
class Peqa:
    """Scales of rounded weights (see `usdm.lm.scaled_integers`)."""

    bits: int = 4
    group: int | None = None  # inputs that share a scale; None: all of a row
    modules_to_save: Sequence[str] = ()  # trained whole: input_embeddings, output_embeddings

    def insert(self, model: PreTrainedModel) -> PreTrainedModel:
        """Raises InputError as `scale_linears` does."""
        scale_linears(model, self.bits, self.group)
        for wanted in self.modules_to_save:
            if wanted not in EMBEDDINGS:
                raise InputError(f"modules_to_save={wanted}: there are {', '.join(EMBEDDINGS)}")
            embeddings(model)[wanted].requires_grad_(True)
        return model

    def merge(self, model: PreTrainedModel) -> PreTrainedModel:
        in_floats(model)
        return model


@dataclass(frozen=True)
class PromptTokens:
    """Rows of tokens at a dialog's beginning (see `usdm.lm.prompt_tokens`); they are the model's last."""

    count: int = 20
    init_text: str | None = None  # the rows begin as this text's; None: as text ids that are drawn
    seed: int = 0

    def insert(self, model: PreTrainedModel) -> PreTrainedModel:
        from peft import TrainableTokensConfig, get_peft_model

        rows: Any = embeddings(model)["input_embeddings"]
        last = len(rows.weight)
        settings = TrainableTokensConfig(
            token_indices=list(range(last - self.count, last)),
            target_modules=_named_modules(model, ["input_embeddings"]),
            task_type="CAUSAL_LM",
        )
        wrapped: Any = get_peft_model(model, settings)
        return wrapped

    def merge(self, model: PreTrainedModel) -> PreTrainedModel:
        whole: Any = model
        merged: PreTrainedModel = whole.merge_and_unload()
        return merged


@dataclass(frozen=True)
class Bottleneck:
    """Narrow layers behind attention and feed-forward (see `usdm.lm.bottleneck`)."""

    rank: int = 64

    def insert(self, model: PreTrainedModel) -> PreTrainedModel:
        add_bottlenecks(model, model.config.get_text_config().hidden_size, self.rank)
        return model

    def merge(self, model: PreTrainedModel) -> PreTrainedModel:
        raise InputError(
            "adapter=bottleneck: its layers cannot become part of the model that is saved; it is for "
            "`usdm train_classifier`, here take lora, ia3, peqa or prompt_tokens"
        )


EMBEDDINGS = ("input_embeddings", "output_embeddings")


def with_prompt_tokens(
    model: PreTrainedModel, vocabulary: SpeechTextVocabulary, template: TemplateSettings, adapter: Any
) -> tuple[SpeechTextVocabulary, TemplateSettings]:
    """Vocabulary and template as `adapter` wants them, for `with_adapter` after it: changed by `PromptTokens` alone.

    Raises InputError as `add_prompt_tokens` does.
    """
    if not isinstance(adapter, PromptTokens):
        return vocabulary, template
    return add_prompt_tokens(model, vocabulary, template, adapter.count, adapter.init_text, adapter.seed)


def with_adapter(model: PreTrainedModel, adapter: Any) -> PreTrainedModel:
    """`model` with the weights of `adapter` to be trained in it and nothing else; as it is where that is None.

    Args:
        model: is changed in place.
        adapter: a configuration of `peft`, or an `OwnAdapter`. Its `modules_to_save` may name `input_embeddings` and
            `output_embeddings`, whatever the model calls them. A head that is one with the embeddings stays so.

    Raises:
        InputError: the adapter does not fit this model; or the embeddings are to be trained whole, are one with the
            head, and this kind of adapter would part them.
    """
    if adapter is None:
        return model
    if isinstance(adapter, OwnAdapter):
        return adapter.insert(model.requires_grad_(False))
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
    try:
        wrapped: Any = get_peft_model(model, settings)
    except ValueError as error:  # which layers, it asks, for a kind of model that it does not know
        raise InputError(f"adapter={type(settings).__name__} and {model.config.model_type}: {error}") from error
    return wrapped


def embeddings(model: PreTrainedModel) -> dict[str, Any]:
    return {name: getattr(model, f"get_{name}")() for name in EMBEDDINGS}


def _named_modules(model: PreTrainedModel, wanted: Sequence[str]) -> list[str]:
    found = embeddings(model)
    names = {module: name.rpartition(".")[2] for name, module in model.named_modules()}
    return [names[found[name]] if name in found else name for name in wanted]


def trained_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """What training changes, by its names in the model."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def trained_share(model: torch.nn.Module) -> str:
    """For people: how many parameters a training changes."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return f"{trained:,} of {num_weights(model):,} parameters are trained: {100 * trained / num_weights(model):.3g} %"


def num_weights(model: torch.nn.Module) -> int:
    """Parameters, and whole numbers that stand for weights."""
    parameters = sum(weight.numel() for weight in model.parameters())
    return parameters + sum(layer.integers.numel() for layer in scaled_layers(model).values())


def adapter_record(adapter: Any) -> dict[str, Any] | None:
    """Its settings as JSON can hold them."""
    if adapter is None:
        return None
    if isinstance(adapter, OwnAdapter):
        return {"kind": type(adapter).__name__, **asdict(adapter)}  # type: ignore[call-overload]
    return {key: sorted(value) if isinstance(value, set) else value for key, value in adapter.to_dict().items()}


def check_mergeable(adapter: Any) -> None:
    """Raises InputError for an adapter that no saved language model can hold, or that packed rows do not suit."""
    if isinstance(adapter, Bottleneck) or getattr(adapter, "is_prompt_learning", False):
        kind = type(adapter).__name__.removesuffix("Config")
        raise InputError(
            f"adapter={kind}: its weights cannot become part of the model that is saved, or stand once before a row, "
            "which may hold several dialogs; it is for `usdm train_classifier`, here take lora, ia3, peqa or "
            "prompt_tokens"
        )


def finished_model(
    config: PretrainedConfig, weights: Mapping[str, Tensor], adapter: Any, dtype: torch.dtype
) -> PreTrainedModel:
    """A model of its own with the trained weights, an adapter's merged into it, stored in `dtype`.

    The trained model may lie in parts on several devices; `weights` are those of all of it, under its names.
    """
    from transformers import AutoModelForCausalLM

    config = deepcopy(config)
    config.use_cache = True  # training turns it off; the generation config is made from this one
    with torch.device("meta"):
        model: Any = with_adapter(AutoModelForCausalLM.from_config(config), adapter)
    model.load_state_dict(weights, assign=True)
    if adapter is not None:
        model = model.float()  # to be rounded once, not weight and update each
        model = adapter.merge(model) if isinstance(adapter, OwnAdapter) else model.merge_and_unload()
    finished: PreTrainedModel = model.to(dtype=dtype)
    return finished
