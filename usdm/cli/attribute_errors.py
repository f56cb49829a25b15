"""Where replies broke: errors of hearing, thinking, saying and decoding, in per cent."""

from __future__ import annotations

from contextlib import ExitStack

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.model import load_asr, load_pipeline
from usdm.cli.predict import items
from usdm.evaluation import ChainSystem
from usdm.evaluation.attribution import attribute_errors


def run(config: DictConfig) -> Figures:
    found = items(config)  # what is wrong with the input is told before the model is loaded
    judge = load_asr(config)
    pipeline = load_pipeline(config)
    system = ChainSystem(pipeline, config.chain, config.seed, config.capacity, config.retry_errors)
    with ExitStack() as bars:
        attribution = attribute_errors(
            system,
            pipeline,
            found,
            config.output_dir,
            judge,
            seed=config.seed,
            overwrite=config.overwrite,
            progress=lambda name: bars.enter_context(bar(f"given: {name}")),
        )
    print(attribution.to_markdown())
    print(f"written to {config.output_dir}")
    return {name: each.share for name, each in attribution.stages.items()}
