"""Likelihood pairs of any speech corpus, in SALMon's layout: for `usdm evaluate_pairs pairs=salmon`."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.likelihood_pairs import make_pairs
from usdm.cli import Figures
from usdm.cli.predict import PACKAGED_SET


def run(config: DictConfig) -> Figures:
    counts = make_pairs(
        list(config.corpora) or [str(PACKAGED_SET)],
        config.output_dir,
        pairs=config.count,
        split=config.split,
        seed=config.seed,
        overwrite=config.overwrite,
    )
    print(", ".join(f"{count} pairs of {part}" for part, count in counts.items()), f"in {config.output_dir}")
    return counts
