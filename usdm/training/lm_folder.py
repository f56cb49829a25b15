"""What a language model's training leaves in its folder: settings that a resumed run must share, and the model."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from usdm.data.unit_corpus import UnitSource
from usdm.tokens import SpeechTextVocabulary, TemplateSettings
from usdm.training.lm_trainer import TrainingLog
from usdm.types import InputError

MODEL_FOLDER = "model"
RECORD_FILE = "training.json"
SETTINGS_FILE = "settings.json"
# A resumed run may change these: they do not decide the weights.
FREE = {
    "log_every",
    "validate_every",
    "validation_rows",
    "save_every",
    "kept_checkpoints",
    "report_to",
    "workers",
    "threads",
    # How a step's rows, whose number is recorded, are shared out over processes and passes.
    "rows",
    "accumulation",
    "sharding",
    "gradient_checkpointing",
}


def check_resumable(record: dict[str, Any], folder: Path, checkpoint: Path | None, write: bool) -> None:
    """Raises InputError if the checkpoint there was made with settings that would have given other weights."""
    path = folder / SETTINGS_FILE
    now = json.loads(json.dumps(record))
    if checkpoint is not None and path.is_file():
        then = json.loads(path.read_text(encoding="utf-8"))
        changed = {
            f"{part}.{key}": (then[part].get(key), value)
            for part in now
            for key, value in now[part].items()
            if key not in FREE and then[part].get(key) != value
        }
        if changed:
            raise InputError(
                f"{checkpoint} was made with other settings {changed} (then, now): use another output_dir, or "
                "delete the checkpoints to start again"
            )
    if write:
        path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


def run_record(
    record: dict[str, Any], model: PreTrainedModel, log: TrainingLog, figures: Mapping[str, float]
) -> dict[str, Any]:
    return {
        **record,
        "parameters": model.num_parameters(),
        "hours": log.elapsed() / 3600,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "validation": dict(figures),
        "perplexity": {name.removeprefix("loss").strip("_") or "all": math.exp(loss) for name, loss in figures.items()},
    }


def save_model(
    model: PreTrainedModel,
    vocabulary: SpeechTextVocabulary,
    units: UnitSource,
    template: TemplateSettings | None,
    training: dict[str, Any],
    folder: Path,
) -> None:
    """The hub-style folder, under its name only once it is complete."""
    final, part = folder / MODEL_FOLDER, folder / (MODEL_FOLDER + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    model.save_pretrained(part)
    vocabulary.save_pretrained(part)
    units.save(part)
    if template is not None:
        template.save(part)
    (part / RECORD_FILE).write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(part, final)
