"""Dialog text of one narrow domain, in the words that will be spoken."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.embedded_model.dialog_text import DomainReport, prepare_dialogs
from usdm.cli.stage import Stage


def tell(report: DomainReport, config: DictConfig) -> None:
    print(f"{sum(report.exchanges.values())} exchanges of {report.vocabulary} words in {config.output_dir}")


run = Stage(prepare_dialogs, tell)
