"""Dialog text of one narrow domain, in the words that will be spoken."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.dialog_text import prepare_dialogs
from usdm.config import arguments


def run(config: DictConfig) -> None:
    report = prepare_dialogs(**arguments(config))
    print(f"{sum(report.exchanges.values())} exchanges of {report.vocabulary} words in {config.output_dir}")
