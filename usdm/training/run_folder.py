"""What every training leaves in its folder, which is claimed for all processes that train together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from usdm.runs import Places, RunFolder, claim

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
