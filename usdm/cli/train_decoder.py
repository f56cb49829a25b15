"""The unit decoder: units to log-mel spectrograms."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli.training import train_part


def run(config: DictConfig) -> None:
    train_part(config)
