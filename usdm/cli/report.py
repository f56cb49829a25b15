"""Result folders as one HTML page, and their tables as Markdown and LaTeX."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.evaluation.report import write_report


def run(config: DictConfig) -> None:
    page = write_report(list(config.folders), config.output_dir, examples=config.examples, seed=config.seed)
    print(f"written to {page}, with its tables in report.md and report.tex beside it")
