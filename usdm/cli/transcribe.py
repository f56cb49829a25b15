"""Text for the recordings of a speech corpus that have none."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.transcripts import SHARDS, TranscriptReport, transcribe_corpus
from usdm.cli import WorkFailed
from usdm.cli.stage import Stage


def tell(report: TranscriptReport, config: DictConfig) -> None:
    print(
        f"{report.transcribed} utterances transcribed in {config.output_dir}, {report.with_text} had text; "
        f"{report.doubtful} were heard with less than confidence {config.lowest_confidence} and stay without: "
        f"{config.output_dir}/{SHARDS}"
    )
    if report.failed:
        raise WorkFailed(
            f"{len(report.failed)} utterances were left without text; retry_errors=true tries them again:\n"
            + "\n".join(report.failed)
        )


run = Stage(transcribe_corpus, tell)
