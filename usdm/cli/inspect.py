"""What a speech or unit corpus holds and what is wrong with it, as a page with plots and sounds."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.cli import WorkFailed
from usdm.config import arguments
from usdm.data.inspection import inspect_corpora
from usdm.data.inspection_findings import findings
from usdm.evaluation.inspection_report import HTML_FILE, JSON_FILE, write_report


def run(config: DictConfig) -> None:
    settings = arguments(config)
    folder = Path(settings.pop("output_dir"))
    inspection = inspect_corpora(**settings)
    write_report(inspection, folder)
    if speech := inspection.speech:
        audio = speech.audio
        print(f"{speech.rows.utterances} utterances, {speech.rows.hours:.2f} h; {audio.measured} sounds measured")
    if units := inspection.units:
        usage = units.usage
        print(f"{units.units} units, {usage.used} of {units.source.num_units} in use, entropy {usage.entropy:.2f} bits")
    for finding in findings(inspection):
        print(f"{finding.kind}: {finding.where}: {finding.what}: {finding.count}")
    print(f"written to {folder / HTML_FILE} and {folder / JSON_FILE}")
    if speech and speech.audio.unreadable:
        raise WorkFailed(
            f"{len(speech.audio.unreadable)} sounds cannot be read, the first: {speech.audio.unreadable[0].error}; "
            f"{folder / JSON_FILE} lists them all"
        )
