"""Dialogs in units that nobody spoke: from pieces of speech whose phones are known."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.embedded_model.composed_units import ComposedReport, compose_units
from usdm.cli.stage import Stage


def tell(report: ComposedReport, config: DictConfig) -> None:
    print(
        f"{report.units} units of {report.turns} turns in {config.output_dir}, {report.phones_a_piece} phones a piece"
    )
    if report.failed:
        print(f"{len(report.failed)} dialogs could not be composed:\n" + "\n".join(report.failed))


run = Stage(compose_units, tell)
