"""A small neural codec, whose codes are acoustic units."""

from __future__ import annotations

from usdm.cli.training import train_part

run = train_part
