"""What got worse beyond noise from one scored folder to another."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli import Figures, WorkFailed
from usdm.cli.compare_results import figures_of
from usdm.evaluation import compare_results, named_folders
from usdm.metrics.table import figure_gap_cell
from usdm.types import InputError


def run(config: DictConfig) -> Figures:
    comparison = compare_results(named_folders([config.before, config.after]), seed=config.seed)
    compared = {name for name, gap in comparison.rows[1].gaps.items() if gap is not None}
    if unknown := sorted(set(config.figures) - compared):
        raise InputError(f"figures: {', '.join(unknown)} cannot be compared; both have {', '.join(sorted(compared))}")
    print(comparison.to_markdown())
    wanted = set(config.figures) or compared
    worse = {name: gap for name, gap in comparison.worse.items() if name in wanted}
    figures = {**figures_of(comparison), "worse": len(worse)}
    if worse:
        told = "\n".join(f"  {name}: {figure_gap_cell(gap)}" for name, gap in worse.items())
        failure = WorkFailed(f"{len(worse)} of {len(wanted)} figures got worse beyond noise:\n{told}")
        failure.figures = figures
        raise failure
    print(f"none of {len(wanted)} figures got worse beyond noise")
    return figures
