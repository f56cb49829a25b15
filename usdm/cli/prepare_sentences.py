"""Sentences of plain text, to be spoken as user turns."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.embedded_model.sentences import SentencesReport, prepare_sentences
from usdm.cli.stage import Stage


def tell(report: SentencesReport, config: DictConfig) -> None:
    print(f"{sum(report.sentences.values())} sentences of {report.words} different words in {config.output_dir}")


run = Stage(prepare_sentences, tell)
