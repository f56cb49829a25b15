"""Perplexity of a pretrained language model by type of token; it is pretrained first where it is not yet."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.cli import Figures, pretrain
from usdm.cli.written import write_report
from usdm.lm import load_model
from usdm.tokens import SpeechTextVocabulary
from usdm.training.perplexity import evaluate_pretraining


def run(config: DictConfig) -> Figures:
    pretrain.run(config)
    folder = Path(config.output_dir)
    segments = pretrain.segment_units(config.segment_units)
    table = evaluate_pretraining(
        load_model(folder / "model").to(config.device),
        SpeechTextVocabulary.from_pretrained(folder / "model"),
        list(config.corpora),
        max_length=config.loop.max_length,
        segment_units=segments if isinstance(segments, int) else segments[-1][1],
        pattern=config.asked,
        split=config.split,
        limit=config.limit,
        seed=config.seed,
    )
    write_report(table, folder, "perplexity")
    return {f"{name} perplexity": each.perplexity for name, each in table.types.items()}
