"""Text for the recordings of a speech corpus that have none."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.transcripts import SHARDS, TranscriptReport, transcribe_corpus
from usdm.cli import Figures, WorkFailed
from usdm.cli.stage import Stage
from usdm.data.speech_corpus import manifest_files


def tell(report: TranscriptReport, config: DictConfig) -> None:
    why = "no words were heard"
    if config.lowest_confidence is not None:
        why += f", or with less than confidence {config.lowest_confidence}"
    print(
        f"{config.output_dir}: {report.transcribed} utterances have the text that was heard, {report.with_text} had "
        f"one before, {report.doubtful} stay without, since {why} (see {config.output_dir}/{SHARDS})"
    )
    if report.failed:
        raise WorkFailed(
            f"{len(report.failed)} utterances were left without text; retry_errors=true tries them again:\n"
            + "\n".join(report.failed)
        )


def run(config: DictConfig) -> Figures:
    manifest_files([config.corpus])  # told before a recogniser is loaded, perhaps from the hub
    return Stage(transcribe_corpus, tell)(config)
