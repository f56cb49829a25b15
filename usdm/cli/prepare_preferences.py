"""Pairs of replies of which one is preferred, from dialogs or from a model's own judgment."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig

from usdm.cli.stage import Stage
from usdm.data.preference_folder import prepare_preferences


def tell(counts: Mapping[str, int], config: DictConfig) -> None:
    told = ", ".join(f"{count} of {split}" for split, count in counts.items())
    print(f"pairs in {config.output_dir}: {told}")


run = Stage(prepare_preferences, tell)
