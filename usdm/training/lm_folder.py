"""What a language model's training leaves in its folder: what it is told apart from others by, and the model."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from usdm.checkpoint import make_readable
from usdm.data.unit_corpus import UnitSource
from usdm.lm.adapters import Peqa
from usdm.lm.scaled_integers import integers_digest
from usdm.lm.task_scales import SCALES_FOLDER, TaskScales
from usdm.runs import Arguments, digest, publishing
from usdm.tokens import SpeechTextVocabulary, TemplateSettings
from usdm.training.lm_trainer import TrainingLog
from usdm.training.run_folder import CURVES_FILE, LOG_FILE, MODEL_FOLDER, RECORD_FILE

RESULTS = (LOG_FILE, CURVES_FILE, MODEL_FOLDER, SCALES_FOLDER, "checkpoint-*", "runs")  # the last are TensorBoard's
# A run that goes on may change these: they decide neither weights nor figures.
FREE = (
    "log_every",
    "validate_every",
    "save_every",
    "kept_checkpoints",
    "report_to",
    "workers",
    "threads",
    # How a step's rows, whose number counts, are shared out over processes and passes.
    "batch_size",
    "gradient_accumulation_steps",
    "sharding",
    "gradient_checkpointing",
    "attention",
    "peft_version",
)
NAMES = ("transformers_version", "_name_or_path")  # in a model's configuration: no part of what it is
DIGITS = 16  # of a digest, hexadecimal
# Arguments of a training that are no data: they are looked at one by one.
OF_THE_RUN = ("model", "vocabulary", "output_dir", "settings", "adapter", "dtype", "origin", "overwrite")


@dataclass(frozen=True)
class Asked:
    """What a training is asked for beside model and settings, and what becomes of another run in its folder."""

    data: Arguments
    origin: Arguments | None  # of the model; None: it is told by its weights
    overwrite: bool


def identity(
    asked: Asked,
    model: PreTrainedModel,
    vocabulary: SpeechTextVocabulary,
    record: Mapping[str, Any],
    dtype: torch.dtype | None,
) -> Arguments:
    """All that the weights and the figures depend on. `record`: settings, and facts about the data."""
    origin = asked.origin or Arguments({"weights": weights_digest(model)})
    settings = {
        "loop": record["settings"],
        "rows_per_step": record["data"]["rows_per_step"],
        "adapter": record["data"]["adapter"],
        "dtype": None if dtype is None else str(dtype),
        "vocabulary": tokenizer_digest(vocabulary),
        "init_from": origin.settings,
        **asked.data.settings,
    }
    return Arguments(settings, {**asked.data.inputs, **origin.inputs})


def weights_digest(model: PreTrainedModel) -> str:
    """Of a model's configuration and weights, whatever they were made of."""
    config = json.loads(model.config.to_json_string())
    found = hashlib.sha256(json.dumps({key: value for key, value in config.items() if key not in NAMES}).encode())
    for name, value in model.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:DIGITS]


def tokenizer_digest(vocabulary: SpeechTextVocabulary) -> str:
    """Of all tokens in order, and how text becomes them."""
    model = json.loads(vocabulary.tokenizer.backend_tokenizer.to_str())["model"]
    return digest([asdict(vocabulary.layout), model])


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
        "perplexity": {
            name.removeprefix("loss").strip("_") or "all": math.exp(loss)
            for name, loss in figures.items()
            if name.startswith("loss")  # nats a token
        },
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
    with publishing(folder / MODEL_FOLDER, folder=True) as part:
        model.save_pretrained(part)
        make_readable(part)
        vocabulary.save_pretrained(part)
        units.save(part)
        if template is not None:
            template.save(part)
        record = json.dumps(training, indent=1, default=str)  # places of a mixture may be paths
        (part / RECORD_FILE).write_text(record + "\n", encoding="utf-8")


def save_scales(
    weights: Mapping[str, Tensor],
    trained: Sequence[str],
    adapter: Peqa,
    template: TemplateSettings | None,
    folder: Path,
) -> None:
    """A task on the model of integers that all tasks share: those of its `weights` that were `trained`."""
    own = {name: weights[name] for name in trained}
    with publishing(folder / SCALES_FOLDER, folder=True) as part:
        TaskScales(adapter.bits, adapter.group, integers_digest(weights), own).save(part)
        if template is not None:
            template.save(part)
