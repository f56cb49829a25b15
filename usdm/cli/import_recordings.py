"""Real recordings, brought into the layout that training reads."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.recordings import import_recordings
from usdm.cli import WorkFailed
from usdm.config import arguments


def run(config: DictConfig) -> None:
    report = import_recordings(**arguments(config))
    print(f"{report.utterances} utterances in {config.output_dir}, {report.without_text} of them without text")
    if report.failed:
        raise WorkFailed(f"{len(report.failed)} recordings were left out:\n" + "\n".join(report.failed))
