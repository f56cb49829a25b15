"""A unit HiFi-GAN: units to sound in one voice, without mels."""

from __future__ import annotations

from usdm.cli.training import train_part

run = train_part
