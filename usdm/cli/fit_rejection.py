"""When a turn is outside of what a model was made for, so that it says so instead of guessing."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.cli.model import load_pipeline
from usdm.cli.stage import numbers
from usdm.training.rejection import fit_rejection


def run(config: DictConfig) -> Figures:
    report = fit_rejection(
        load_pipeline(config),
        list(config.corpora),
        config.output_dir,
        refused_dialogs=list(config.refused_dialogs),
        turns=config.turns,
        dev_turns=config.dev_turns,
        kept=config.kept,
        reply=config.reply,
        capacity=config.capacity,
        seed=config.seed,
        overwrite=config.overwrite,
    )
    print(f"fitted on {report.train} turns; on {report.dev} others {100 * config.kept:g} % pass with")
    for score, threshold in report.thresholds.items():
        print(f"  {score} {threshold:.4g} or more")
    print(f"usdm respond reject=combined reject.folder={config.output_dir}/model")
    return numbers(report)
