"""The unit decoder: units to log-mel spectrograms."""

from __future__ import annotations

from usdm.cli.training import train_part

run = train_part
