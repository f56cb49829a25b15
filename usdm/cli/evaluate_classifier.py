"""A classifier of user turns: its accuracy, and how well scores tell turns of classes that it has not learnt."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from transformers.utils.logging import disable_progress_bar

from usdm.cli import Figures
from usdm.cli.written import write_report
from usdm.training.classifier_evaluation import evaluate_classifier


def run(config: DictConfig) -> Figures:
    disable_progress_bar()  # of every file that is read
    result = evaluate_classifier(
        config.classifier,
        list(config.corpora),
        config.labels,
        {str(name): instantiate(node, _convert_="all") for name, node in config.detector.items()},
        out=OmegaConf.to_container(config.out),  # type: ignore[arg-type]
        hears=config.hears,
        base=config.base,
        seed=config.seed,
    )
    write_report(result, config.output_dir, "classifier")
    return {"accuracy": result.accuracy.mean} | {
        f"{row.outside} {row.detector} AUROC": row.separation.auroc[0] for row in result.rows
    }
