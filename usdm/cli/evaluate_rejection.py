"""What a model refuses, by itself and by each score, inside and outside of its domain."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.cli.model import load_pipeline
from usdm.cli.written import write_report
from usdm.training.rejection_evaluation import evaluate_rejection


def run(config: DictConfig) -> Figures:
    result = evaluate_rejection(
        load_pipeline(config),
        config.rejection,
        list(config.corpora),
        list(config.outside),
        refused_dialogs=list(config.refused_dialogs),
        phrase=config.phrase,
        turns=config.turns,
        capacity=config.capacity,
        seed=config.seed,
    )
    write_report(result, config.output_dir, "rejection")
    return {f"{row.score} false alarms": row.false_alarms.mean for row in result.rows} | {
        f"{row.score} refused": row.words.mean for row in result.rows if row.words is not None
    }
