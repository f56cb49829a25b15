"""Test dialogs of a speech corpus as a small folder that can be shipped."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.held_out import make_held_out
from usdm.config import arguments


def run(config: DictConfig) -> None:
    exchanges = make_held_out(**arguments(config))
    print(f"{exchanges} exchanges in {config.output_dir}")
