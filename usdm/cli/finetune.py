"""The language model on spoken dialogs: transcribe, respond, speak."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from usdm.cli import Figures
from usdm.cli.pretrain import base_model, base_origin
from usdm.cli.training import loading_device, show_result
from usdm.config import arguments
from usdm.data.unit_corpus import UnitSource
from usdm.lm import load_model
from usdm.runs import Arguments
from usdm.tokens import SpeechTextVocabulary
from usdm.training.language_model import finetune


def run(config: DictConfig) -> Figures:
    disable_progress_bar()  # of every file that is read or written
    settings = arguments(OmegaConf.masked_copy(config, [str(key) for key in config if key != "llm"]))  # built below
    if config.llm is None:
        model: PreTrainedModel = load_model(config.pretrained, loading_device(config.pretrained))
        vocabulary = SpeechTextVocabulary.from_pretrained(config.pretrained)
        unit_source = UnitSource.load(config.pretrained)
        origin = Arguments(inputs={"pretrained": config.pretrained})
    else:
        model, vocabulary = base_model(config)
        unit_source = UnitSource.load(config.llm.folder) if "folder" in config.llm else None  # most know no units yet
        origin = base_origin(config)
    figures = finetune(
        model,
        vocabulary,
        settings["corpora"],
        config.output_dir,
        settings["loop"],
        template=settings["template"],
        agent_roles=settings["agent_roles"],
        history_turns=config.history_turns,
        layouts=settings["layouts"],
        noise=settings["noise"],
        splice_augmentation=settings["splice_augmentation"],
        preferences=settings["preferences"],
        order=settings["order"],
        unit_source=unit_source,
        objective=settings["objective"],
        adapter=settings["adapter"],
        origin=origin,
        overwrite=config.overwrite,
    )
    show_result(figures, config.output_dir)
    return figures
