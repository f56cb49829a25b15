"""What got worse beyond noise from one scored folder to another."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.cli import Figures, WorkFailed
from usdm.cli.compare_results import figures_of
from usdm.evaluation import compare_results, named_folders
from usdm.evaluation.compare import Comparison
from usdm.evaluation.scorecard import SCORECARD_FILE
from usdm.metrics.table import figure_gap_cell
from usdm.types import InputError

KNOWLEDGE = "knowledge"  # of a scored folder: what `usdm evaluate_knowledge` has written there


def run(config: DictConfig) -> Figures:
    comparisons = compared(Path(config.before), Path(config.after), config.seed)
    gaps = {
        part + name: gap
        for part, comparison in comparisons.items()
        for name, gap in comparison.rows[1].gaps.items()
        if gap is not None
    }
    if unknown := sorted(set(config.figures) - set(gaps)):
        raise InputError(f"figures: {', '.join(unknown)} cannot be compared; both have {', '.join(sorted(gaps))}")
    for comparison in comparisons.values():
        print(comparison.to_markdown())
    wanted = set(config.figures) or set(gaps)
    worse = {name: gap for name, gap in gaps.items() if gap.is_worse and name in wanted}
    figures = {
        part + name: value for part, comparison in comparisons.items() for name, value in figures_of(comparison).items()
    }
    figures = {**figures, "worse": len(worse)}
    if worse:
        told = "\n".join(f"  {name}: {figure_gap_cell(gap)}" for name, gap in worse.items())
        failure = WorkFailed(f"{len(worse)} of {len(wanted)} figures got worse beyond noise:\n{told}")
        failure.figures = figures
        raise failure
    print(f"none of {len(wanted)} figures got worse beyond noise")
    return figures


def compared(before: Path, after: Path, seed: int) -> dict[str, Comparison]:
    """By what stands before a figure's name: dialogs, and what is known where one side has that measured.

    Raises InputError if the other side has not.
    """
    sides = {"": (before, after), f"{KNOWLEDGE} ": (before / KNOWLEDGE, after / KNOWLEDGE)}
    there = {part: pair for part, pair in sides.items() if any((side / SCORECARD_FILE).is_file() for side in pair)}
    return {part: compare_results(named_folders(pair), seed=seed) for part, pair in (there or {"": sides[""]}).items()}
