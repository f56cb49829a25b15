"""A published intent set (CLINC150, Banking77, SNIPS) as dialogs of one turn, with labels."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.intents import IntentReport, prepare_intents
from usdm.cli.stage import Stage


def tell(report: IntentReport, config: DictConfig) -> None:
    by_split = ", ".join(f"{count} {split}" for split, count in report.queries.items())
    print(f"{by_split} queries of {report.intents} intents in {config.output_dir}")
    if report.without_words:
        print(f"{report.without_words} queries without a word that could be spoken are left out")


run = Stage(prepare_intents, tell)
