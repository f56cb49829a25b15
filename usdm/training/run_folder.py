"""What every training leaves in its folder, which is claimed for all processes that train together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from usdm.runs import JsonLines, Places, RunFolder, claim, read_lines

logger = logging.getLogger(__name__)

LOG_FILE, RECORD_FILE, CURVES_FILE, MODEL_FOLDER = "log.jsonl", "training.json", "curves.png", "model"
VALIDATION = "validation/"  # before the names of validation figures in the log


@contextmanager
def claim_together(
    folder: str | Path, settings: Mapping[str, Any], inputs: Mapping[str, Places], **options: Any
) -> Iterator[RunFolder]:
    """`usdm.runs.claim` by the first of the processes that train together; the others wait, and fail if it fails.

    Only the first one may say `finish`.
    """
    with ExitStack() as stack:
        outcome: list[Any] = [None]
        if PartialState().is_main_process:
            try:
                outcome = [stack.enter_context(claim(folder, settings, inputs, **options)).record]
            except Exception as error:
                outcome = [error]
        broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        yield RunFolder(Path(folder), outcome[0])


def finished(claimed: RunFolder) -> bool:
    """Whether an earlier run did all, and its model is there; that is told."""
    if not (claimed.record.done and (claimed.path / MODEL_FOLDER).is_dir()):
        return False
    logger.info("%s: finished by an earlier run, nothing is left to train", claimed.path)
    return True


def cut_log(folder: Path, last: int, writes: bool) -> list[dict[str, Any]]:
    """The rows of the log up to step `last`; none if there is no log. The process that `writes` drops later ones.

    A killed run may have logged steps that its last checkpoint does not hold: they are run again.
    """
    if writes:
        with JsonLines(folder / LOG_FILE) as log:
            log.keep(lambda row: row["step"] <= last)
    return [row for row in read_lines(folder / LOG_FILE) if row["step"] <= last]


def add_to_log(folder: Path, row: Mapping[str, float | None]) -> None:
    with JsonLines(folder / LOG_FILE) as log:
        log.append(row)


def validation_figures(row: Mapping[str, float]) -> dict[str, float]:
    """The figures of a validation's line in the log; nothing of another line."""
    return {key.removeprefix(VALIDATION): value for key, value in row.items() if key.startswith(VALIDATION)}
