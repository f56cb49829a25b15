"""Scored folders side by side: figures, and paired differences to the first."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.cli.written import write_report
from usdm.evaluation import compare_results, named_folders
from usdm.evaluation.compare import Comparison


def run(config: DictConfig) -> Figures:
    comparison = compare_results(named_folders(config.folders), seed=config.seed)
    if config.output_dir is None:
        print(comparison.to_markdown())
    else:
        write_report(comparison, config.output_dir, "comparison")
    return figures_of(comparison)


def figures_of(comparison: Comparison) -> Figures:
    return {
        f"{row.name} {name}": figure.value
        for row in comparison.rows
        for name, figure in row.figures.items()
        if figure.value is not None
    }
