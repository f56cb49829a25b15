"""Textless language modelling: how often the better sound of a pair is the likelier one (sWUGGY, SALMon, ...)."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from usdm.cli import Figures, WorkFailed
from usdm.cli.bars import bar
from usdm.cli.model import load_pipeline
from usdm.cli.written import write_report
from usdm.pairs.evaluation import evaluate_pairs
from usdm.runs import record

FAILURES_TOLD = 5


def run(config: DictConfig) -> Figures:
    benchmark = instantiate(config.pairs, _convert_="all")
    pairs = benchmark.read()  # what is wrong with them is told before the model is loaded
    folder = Path(config.output_dir)
    pipeline = load_pipeline(config)
    with bar("sounds") as progress:
        scores = evaluate_pairs(
            pipeline,
            benchmark.name,
            pairs,
            folder,
            scoring=config.scoring,
            batch=config.batch,
            seed=config.seed,
            progress=progress,
        )
    write_report(scores, folder, "pairs")
    figures = {f"{figure.subset} accuracy": figure.accuracy.mean for figure in scores.figures}
    record(folder, OmegaConf.to_container(config, resolve=True, enum_to_str=True), {}, figures)  # type: ignore[arg-type]
    if scores.failures:
        told = "\n".join(f"  {failure}" for failure in scores.failures[:FAILURES_TOLD])
        failed = WorkFailed(f"{len(scores.failures)} of {len(pairs)} pairs could not be scored:\n{told}")
        failed.figures = figures
        raise failed
    return figures
