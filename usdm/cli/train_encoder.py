"""The speech encoder: phones frame by frame on a middle layer, CTC on top."""

from __future__ import annotations

from usdm.cli.training import train_part

run = train_part
