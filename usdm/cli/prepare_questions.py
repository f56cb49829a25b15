"""Question-answer pairs as dialogs of one exchange, in the words that will be spoken."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.questions import QuestionsReport, prepare_questions
from usdm.cli.stage import Stage


def tell(report: QuestionsReport, config: DictConfig) -> None:
    left_out = ", ".join(f"{number} {reason}" for reason, number in report.left_out.items())
    print(f"{sum(report.exchanges.values())} exchanges of {report.words} words in {config.output_dir}")
    print(f"of {report.pairs} pairs were left out: {left_out or 'none'}")


run = Stage(prepare_questions, tell)
