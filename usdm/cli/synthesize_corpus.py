"""Dialog text spoken by synthesisers: many user voices, one agent voice, with word and phone times."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.speech_corpus import CorpusReport, synthesize_corpus
from usdm.cli import WorkFailed
from usdm.cli.stage import Stage


def tell(report: CorpusReport, config: DictConfig) -> None:
    print(f"{report.turns} turns in {config.output_dir}")
    if report.failed:
        raise WorkFailed(
            f"{len(report.failed)} dialogs could not be spoken; retry_errors=true tries them again:\n"
            + "\n".join(report.failed)
        )


run = Stage(synthesize_corpus, tell, lambda report: {"turns": report.turns})
