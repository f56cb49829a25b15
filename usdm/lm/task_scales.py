"""What one task, voice or language is on a model of frozen integers: its scales, in a folder of a few kilobytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from usdm.checkpoint import make_readable
from usdm.lm.quantization import Int8Linear
from usdm.lm.scaled_integers import ScaledIntLinear, in_floats, integers_digest, scale_linears
from usdm.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCALES_FOLDER = "scales"  # in a training's folder
WEIGHTS_FILE = "scales.safetensors"
SETTINGS_FILE = "scales.json"
THEIR_BASE = "give the language model that the training with adapter=peqa began with (model.llm=FOLDER)"


@dataclass(frozen=True, eq=False)
class TaskScales:
    bits: int
    group: int | None
    integers: str  # digest of the whole numbers that they belong to
    weights: Mapping[str, Tensor]  # scales, and whatever else was trained, by its name in the model

    def save(self, folder: str | Path) -> None:
        """Write `scales.json` and `scales.safetensors`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.cpu().contiguous() for name, weight in self.weights.items()}, folder / WEIGHTS_FILE)
        make_readable(folder)
        settings = {"bits": self.bits, "group": self.group, "integers": self.integers}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> TaskScales:
        """Raises InputError if the folder holds something else, or a file is damaged."""
        folder = Path(folder)
        try:
            settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS_FILE)
            return cls(int(settings["bits"]), settings["group"], str(settings["integers"]), weights)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{folder}: no scales can be read there ({error!r}); give the folder {SCALES_FOLDER}/ of a training "
                "with adapter=peqa"
            ) from error

    def put_into(self, model: PreTrainedModel, base: str | Path) -> None:
        """Round the linear layers of `model`, which was read from `base`, and give them these scales.

        Raises InputError if they were trained on another model.
        """
        try:
            scale_linears(model, self.bits, self.group)
        except InputError as error:
            raise InputError(
                f"the scales (bits={self.bits}, group={self.group}) fit no layers of {base}: {THEIR_BASE}"
            ) from error
        found = integers_digest(model.state_dict())
        if found != self.integers:
            raise InputError(
                f"the scales belong to a model whose integers are {self.integers}, those of {base} are {found}: "
                f"{THEIR_BASE}"
            )
        places = dict(model.named_parameters())
        wrong = [
            name for name, weight in self.weights.items() if name not in places or places[name].shape != weight.shape
        ]
        if wrong:
            raise InputError(f"the scales have {', '.join(wrong[:3])}, which {base} has not: copy their folder again")
        for name, weight in self.weights.items():
            places[name].data = weight.to(places[name])


def to_infer(model: PreTrainedModel, dtype: torch.dtype, quantized: bool) -> PreTrainedModel:
    """A model with scales as forwards want it, in place, all but the integers in `dtype`.

    `quantized` keeps the integers, on a CPU as the layers that its 8-bit kernel serves where a scale is a row's.
    Otherwise the layers become ordinary ones, with the weights that they stand for.
    """
    if not quantized:
        in_floats(model)
    elif model.device.type == "cpu":
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, ScaledIntLinear) and child.per_channel:
                    setattr(parent, name, Int8Linear(child.integers[:, 0], child.rounded.scale[:, 0, 0], child.bias))
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model.requires_grad_(False)
