"""Sentences of plain text, to be spoken as user turns."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.sentences import prepare_sentences
from usdm.config import arguments


def run(config: DictConfig) -> None:
    report = prepare_sentences(**arguments(config))
    print(f"{sum(report.sentences.values())} sentences of {report.words} different words in {config.output_dir}")
