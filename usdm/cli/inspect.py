"""What a speech or unit corpus holds and what is wrong with it, as a page with plots and sounds."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from omegaconf import DictConfig

from usdm.cli import Figures, WorkFailed
from usdm.config import arguments
from usdm.inspection.corpus import inspect_corpora
from usdm.inspection.findings import Kind, findings
from usdm.inspection.report import HTML_FILE, JSON_FILE, write_report


def run(config: DictConfig) -> Figures:
    settings = arguments(config)
    folder = Path(settings.pop("output_dir"))
    inspection = inspect_corpora(**settings)
    write_report(inspection, folder)
    found = findings(inspection)
    figures: dict[str, float] = {kind + "s": sum(each.kind == kind for each in found) for kind in get_args(Kind)}
    if speech := inspection.speech:
        audio = speech.audio
        figures |= {"utterances": speech.rows.utterances, "hours": speech.rows.hours}
        print(f"{speech.rows.utterances} utterances, {speech.rows.hours:.2f} h; {audio.measured} sounds measured")
    if units := inspection.units:
        usage = units.usage
        figures |= {"units": units.units, "entropy": usage.entropy}
        print(f"{units.units} units, {usage.used} of {units.source.num_units} in use, entropy {usage.entropy:.2f} bits")
    for finding in found:
        print(f"{finding.kind}: {finding.where}: {finding.what}: {finding.count}")
    print(f"written to {folder / HTML_FILE} and {folder / JSON_FILE}")
    if speech and speech.audio.unreadable:
        failure = WorkFailed(
            f"{len(speech.audio.unreadable)} sounds cannot be read, the first: {speech.audio.unreadable[0].error}; "
            f"{folder / JSON_FILE} lists them all"
        )
        failure.figures = figures
        raise failure
    return figures
