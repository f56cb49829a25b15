"""Scored folders side by side: figures, and paired differences to the first."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.evaluation import compare_results, named_folders
from usdm.evaluation.compare import Comparison
from usdm.runs import write_text


def run(config: DictConfig) -> Figures:
    comparison = compare_results(named_folders(config.folders), seed=config.seed)
    print(comparison.to_markdown())
    if config.output_dir is not None:
        write_comparison(comparison, Path(config.output_dir), "comparison")
    return figures_of(comparison)


def write_comparison(comparison: Comparison, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.json", comparison.to_json())
    write_text(folder / f"{name}.md", comparison.to_markdown())
    print(f"written to {folder}")


def figures_of(comparison: Comparison) -> Figures:
    return {
        f"{row.name} {name}": figure.value
        for row in comparison.rows
        for name, figure in row.figures.items()
        if figure.value is not None
    }
