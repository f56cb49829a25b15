"""What figures depend on beside the model: package versions and the machine. Kept with every scorecard."""

from __future__ import annotations

import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("usdm", "torch", "transformers", "pocketsphinx", "jiwer", "whisper-normalizer", "nltk", "rouge-score")
METRICS = {
    "wer": "jiwer, under Whisper's English normaliser, counts summed over items",
    "interval": "95 %, bootstrap over dialogs; over speakers where no dialogs are known, over items of one speaker",
}


def surroundings() -> dict[str, Any]:
    return {
        "metrics": METRICS,
        "versions": {package: installed_version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
    }


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree that was never installed
        return None
