"""What a model or a cascade makes of every question of a held-out set, made once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

import usdm
from usdm.chain import SpokenDialogPipeline
from usdm.cli import Figures, WorkFailed
from usdm.cli.bars import bar
from usdm.cli.model import load_pipeline
from usdm.evaluation import predict, read_held_out
from usdm.evaluation.held_out import HeldOutItem, spread
from usdm.evaluation.predictions import System, read_predictions

PACKAGED_SET = Path(usdm.__file__).parent / "assets" / "held_out"


def run(config: DictConfig) -> Figures:
    found = items(config)  # what is wrong with the input is told before the model is loaded
    pipeline = load_pipeline(config)
    with bar("predictions") as progress:
        predict(
            system(config.system, pipeline, config),
            found,
            config.output_dir,
            given=config.given and config.given.value,
            units=pipeline,
            overwrite=config.overwrite,
            progress=progress,
        )
    errors = Counter(each.error is None for each in read_predictions(config.output_dir).values())
    print(f"{errors[True]} predictions in {config.output_dir}, {errors[False]} failed")
    figures = {"predictions": errors[True], "failed": errors[False]}
    fail_if_any(errors[False], config.output_dir, figures)
    return figures


def items(config: DictConfig) -> list[HeldOutItem]:
    return spread(read_held_out(config.held_out or PACKAGED_SET, config.split), config.limit)


def system(node: DictConfig, pipeline: SpokenDialogPipeline, config: DictConfig) -> System:
    """A node of the group `system`, around a loaded model."""
    built: System = instantiate(node, _convert_="all")(
        pipeline=pipeline, seed=config.seed, capacity=config.capacity, retry_errors=config.retry_errors
    )
    return built


def fail_if_any(failed: int, folder: str, figures: Figures) -> None:
    if failed:
        failure = WorkFailed(
            f"{failed} items failed; {folder}/results.jsonl says why under `error`, retry_errors=true tries them again"
        )
        failure.figures = figures
        raise failure
