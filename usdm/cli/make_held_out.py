"""Test dialogs of a speech corpus as a small folder that can be shipped."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.embedded_model.held_out import make_held_out
from usdm.cli.stage import Stage


def tell(exchanges: int, config: DictConfig) -> None:
    print(f"{exchanges} exchanges in {config.output_dir}")


run = Stage(make_held_out, tell, lambda exchanges: {"exchanges": exchanges})
