"""Samples of any speech corpus in Full-Duplex-Bench's layout: for `usdm measure_conversation`."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.full_duplex_samples import make_full_duplex_bench
from usdm.cli import Figures
from usdm.cli.predict import PACKAGED_SET


def run(config: DictConfig) -> Figures:
    counts = make_full_duplex_bench(
        list(config.corpora) or [str(PACKAGED_SET)],
        config.output_dir,
        count=config.count,
        split=config.split,
        seed=config.seed,
        overwrite=config.overwrite,
    )
    print(", ".join(f"{count} samples of {task}" for task, count in counts.items()), f"in {config.output_dir}")
    return counts
