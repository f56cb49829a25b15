"""Word times for a speech corpus, from its sound and text or from TextGrids."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.alignment import align_corpus
from data_prep.alignment.corpus import PROBLEMS_FILE, AlignmentReport
from usdm.cli.stage import Stage


def tell(report: AlignmentReport, config: DictConfig) -> None:
    print(
        f"{report.words} words of {report.aligned} utterances in {config.output_dir}; {report.without_text} utterances "
        f"have no text, {report.failed} failed"
    )
    if report.heard:
        print(f"{report.heard} utterances without text got the phones of what the aligner heard, but no text")
    if report.confidence is not None:
        print(f"mean confidence of a word {report.confidence:.2f}")
    if report.failed or report.unknown or report.interpolated:
        print(
            f"{report.interpolated} words had nothing to align, {report.unknown} something unknown to the aligner: "
            f"{config.output_dir}/{PROBLEMS_FILE}"
        )
    if error := report.against_known:
        shares = ", ".join(f"{share:.1%} within {limit} ms" for limit, share in error.within.items())
        print(
            f"against the times that the corpus had, {error.boundaries} word boundaries: median {error.median:.0f} ms, "
            f"mean {error.mean:.0f} ms, {shares}"
        )


run = Stage(align_corpus, tell)
