"""Speech corpora as units with word times: what the language model and the decoder learn from."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli import WorkFailed
from usdm.cli.stage import Stage
from usdm.data.extraction import ExtractionReport, extract_units


def tell(report: ExtractionReport, config: DictConfig) -> None:
    print(
        f"{report.units} units of {report.utterances} utterances in {config.output_dir}, "
        f"{report.without_words} of them without word times"
    )
    if report.missing:
        print(f"{report.missing} utterances have still to be extracted by other jobs")
    if report.failed:
        raise WorkFailed(
            f"{len(report.failed)} utterances could not be extracted; retry_errors=true tries them again:\n"
            + "\n".join(report.failed)
        )


run = Stage(extract_units, tell)
