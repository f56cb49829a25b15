"""The language model on interleaved text and units."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from usdm.chain.locations import MODELS_VARIABLE, fetched, locate_parts
from usdm.cli import Figures
from usdm.cli.training import loading_device, show_result
from usdm.data.mixture import MixtureMember
from usdm.lm import change_vocabulary, extend_embeddings, load_model
from usdm.runs import Arguments, arguments_of
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer, read_tokenizer
from usdm.training.language_model import pretrain
from usdm.types import InputError

logger = logging.getLogger(__name__)


def run(config: DictConfig) -> Figures:
    disable_progress_bar()  # of every file that is read or written
    mixture: list[MixtureMember] = instantiate(config.mixture, _convert_="all")
    tags = [tag for member in mixture if member.fill_in_middle is not None for tag in member.fill_in_middle.tags]
    model, vocabulary = base_model(config, tags)
    figures = pretrain(
        model,
        vocabulary,
        list(config.corpora),
        config.output_dir,
        instantiate(config.loop, _convert_="all"),
        interleaving=instantiate(config.interleave, _convert_="all"),
        segment_units=segment_units(config.segment_units),
        order=instantiate(config.order, _convert_="all"),
        mixture=mixture,
        objective=instantiate(config.objective, _convert_="all"),
        adapter=instantiate(config.adapter, _convert_="all"),
        origin=base_origin(config),
        overwrite=config.overwrite,
    )
    show_result(figures, config.output_dir)
    return figures


def find_llm(config: DictConfig) -> None:
    """Let `llm.folder`, where an llm has one, be a folder on this machine: it may be downloaded from the hub.

    Raises InputError if it is neither here nor to be had there.
    """
    if "folder" not in config.llm:
        return
    place = locate_parts({"llm": config.llm.folder})["llm"]
    if place.missing:
        raise InputError(
            f"llm.folder={config.llm.folder} is not at {', '.join(place.looked_for)}: give the folder of a causal "
            f"language model, or set {MODELS_VARIABLE} to the folder that it lies in"
        )
    config.llm.folder = str(place.folder or fetched(place))


def base_model(config: DictConfig, text_tags: Sequence[str] = ()) -> tuple[PreTrainedModel, SpeechTextVocabulary]:
    """`config.llm` before it has met speech: random weights or a text model's, with rows for tags and units."""
    find_llm(config)
    base = read_tokenizer(config.llm.tokenizer)
    vocabulary = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(base, config.shared.num_units, text_tags))
    torch.manual_seed(config.seed)  # random weights
    return instantiate(config.llm.model, vocabulary, _convert_="all"), vocabulary


def base_origin(config: DictConfig) -> Arguments:
    """What `base_model` depends on."""
    given: Any = OmegaConf.to_container(config.llm.model, resolve=True)
    target = given.pop("_target_")
    made = arguments_of(get_object(target), given)
    settings = {"target": target, **made.settings, "seed": config.seed}
    return Arguments(settings, {"tokenizer": config.llm.tokenizer, **made.inputs})


def segment_units(given: int | ListConfig) -> int | list[tuple[int, int]]:
    """A number, or a curriculum of (from this step on, segment units)."""
    return given if isinstance(given, int) else [(step, units) for step, units in given]


def extend_pretrained(
    vocabulary: SpeechTextVocabulary,
    folder: str | Path,
    strategy: Literal["normal", "mean"],
    attention: str | None,
    seed: int,
) -> PreTrainedModel:
    """A text model's weights with new rows for the tags and units; see `usdm.lm.extend_embeddings`."""
    model = load_model(folder, loading_device(folder), attention=attention)
    extend_embeddings(model, vocabulary, strategy, seed)
    return model


def with_other_words(vocabulary: SpeechTextVocabulary, folder: str | Path, seed: int) -> PreTrainedModel:
    """A speech-text model's weights under another tokenizer; see `usdm.lm.change_vocabulary`."""
    model = load_model(folder, loading_device(folder))
    kept = change_vocabulary(model, SpeechTextVocabulary.from_pretrained(folder), vocabulary, seed)
    logger.info("%d of %d tokens are known to %s", kept, len(vocabulary), folder)
    return model
