"""Real recordings, brought into the layout that training reads."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.recordings import RecordingsReport, import_recordings
from usdm.cli import WorkFailed
from usdm.cli.stage import Stage


def tell(report: RecordingsReport, config: DictConfig) -> None:
    told = f"{report.utterances} utterances in {config.output_dir}, {report.without_text} of them without text"
    print(f"{told}; {report.left_out} recordings were left out" if report.left_out else told)
    if report.failed:
        raise WorkFailed(f"{len(report.failed)} recordings were left out:\n" + "\n".join(report.failed))


run = Stage(import_recordings, tell)
