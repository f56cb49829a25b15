"""Text for the recordings of a speech corpus that have none."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.transcripts import SHARDS, TranscriptReport, transcribe_corpus
from usdm.cli import Figures, WorkFailed
from usdm.cli.stage import Stage
from usdm.data.speech_corpus import manifest_files


def tell(report: TranscriptReport, config: DictConfig) -> None:
    told = f"{report.transcribed} utterances have the text that was heard, {report.with_text} had one before"
    if report.doubtful:
        surely = "" if config.lowest_confidence is None else f", or none with confidence {config.lowest_confidence}"
        told += f", {report.doubtful} stay without, since no words were heard{surely}: {config.output_dir}/{SHARDS}"
    print(f"{config.output_dir}: {told}")
    if report.failed:
        raise WorkFailed(
            f"{len(report.failed)} utterances were left without text; retry_errors=true tries them again:\n"
            + "\n".join(report.failed)
        )


def run(config: DictConfig) -> Figures:
    manifest_files([config.corpus])  # told before a recogniser is loaded, perhaps from the hub
    return Stage(transcribe_corpus, tell)(config)
