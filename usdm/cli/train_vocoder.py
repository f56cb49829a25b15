"""The vocoder: log-mel spectrograms to sound."""

from __future__ import annotations

from usdm.cli.training import train_part

run = train_part
