"""A corpus as it is distributed, a folder of sound with text, or a JSONL: brought into the layout of training."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.corpora import FAILED_FILE, ImportReport, import_corpus
from usdm.cli.stage import Stage


def tell(report: ImportReport, config: DictConfig) -> None:
    print(
        f"{report.utterances} utterances ({report.hours:.2f} h) in {config.output_dir}, {report.without_text} of them "
        f"without text; {report.speechless} marked as noise and {len(report.failed)} that failed were left out"
    )
    if report.failed:
        print(f"why they failed: {config.output_dir}/{FAILED_FILE}")


run = Stage(import_corpus, tell)
