"""A labelled source and an unlabelled target that share some classes: typed or spoken, by service, by voice."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.domain_shift import Shift, prepare_shift
from usdm.cli.stage import Stage


def tell(shift: Shift, config: DictConfig) -> None:
    print(f"common: {', '.join(shift.common)}")
    for side, private, turns in (
        ("source", shift.source_private, shift.source),
        ("target", shift.target_private, shift.target),
    ):
        print(f"{side} alone: {', '.join(private) or 'none'}; {sum(turns.values())} user turns in {config.output_dir}")


run = Stage(prepare_shift, tell)
