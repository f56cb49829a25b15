"""What a model refuses, by itself and by each score, inside and outside of its domain."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.cli.model import load_pipeline
from usdm.runs import write_text
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
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "rejection.json", json.dumps(result.to_json(), indent=1) + "\n")
    report = result.to_markdown()
    write_text(folder / "rejection.md", report)
    print(report)
    print(f"written to {folder}")
    return {f"{row.score} false alarms": row.false_alarms.mean for row in result.rows} | {
        f"{row.score} refused": row.words.mean for row in result.rows if row.words is not None
    }
