"""Settings that had another name: whoever still writes the old one is told the new one."""

from __future__ import annotations

from collections.abc import Sequence

from usdm.types import InputError

RENAMED = {  # old key -> new key, of any verb
    "batch_published": "batch_reference",
    "loop.accumulation": "loop.gradient_accumulation_steps",
    "loop.row_length": "loop.max_length",
    "loop.rows": "loop.batch_size",
    "predecessor": "init_from",
    "recogniser": "asr",
    "refusal_phrase": "metric.refusals.phrase",
    "splices": "splice_augmentation",
    "task.initial": "task.init_from",
    "task.variation": "task.augmentation",
    "variation": "augmentation",
}


def check_renamed(overrides: Sequence[str]) -> None:
    """Raises InputError for the first of `overrides` (`key=value`) whose key has a new name."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        for old, new in RENAMED.items():
            if key == old or key.startswith(f"{old}."):
                raise InputError(f"{override}: {old} is called {new} now; write {override.replace(old, new, 1)}")
