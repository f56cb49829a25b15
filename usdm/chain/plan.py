"""What a model needs of memory, disk and network, told before anything of it is loaded or downloaded.

Sizes come from each part's own configuration where it is on this machine. For published parts that are not, their
configurations are in the package.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub import constants
from torch import nn
from transformers import PreTrainedModel

from usdm.chain.hub import NEEDED_FILES, Hub, matches
from usdm.chain.locations import PartLocation, is_hub_name, locate_parts, missing_message
from usdm.chain.memory import Memory, all_memory, device_memory
from usdm.chain.meta_models import build_meta_model, cache_bytes, weight_bytes
from usdm.chain.options import LoadOptions, Quantization
from usdm.checkpoint import read_config
from usdm.runs import split_revision
from usdm.types import InputError

PUBLISHED_CONFIGS = Path(__file__).resolve().parents[1] / "assets" / "published"
WORKING_BYTES = 10**9  # Python, torch and what the longest stage computes with; an estimate

Full = Literal["float32", "bfloat16"]  # precisions that any device computes in
Where = Literal["local", "cached", "to download", "not here"]


@dataclass(frozen=True)
class PartPlan:
    """One part."""

    part: str
    name: str
    where: Where  # "not here": neither on this machine nor, as far as could be asked, on the hub
    folder: str | None
    parameters: int
    precision: str  # of its weights in memory
    memory_bytes: int  # of its weights
    disk_bytes: int  # of its files
    disk_estimated: bool  # they are not here, and the hub did not answer: sized by the configuration
    to_download: bool  # from the hub, once it answers


@dataclass(frozen=True)
class ModelPlan:
    """A whole model on one device, ready to answer."""

    parts: tuple[PartPlan, ...]
    device: str
    context: int  # tokens that the key-value cache is counted for
    cache_bytes_per_1000_tokens: int
    cache_bytes: int
    working_bytes: int
    unquantized_bytes: int  # of the language model while it is loaded on a CPU, and only then quantised; else 0
    language_model_bytes: Mapping[str, int]  # of its weights, by precision
    memory: Memory | None  # what there is; None: the system does not tell
    cache_folder: str  # of downloads
    cache_free_bytes: int  # on its disk
    unavailable: str | None  # the message about parts that cannot be had

    @property
    def needed_bytes(self) -> int:
        return sum(part.memory_bytes for part in self.parts) + self.cache_bytes + self.working_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that is needed at a time, loading included."""
        others = sum(part.memory_bytes for part in self.parts if part.part != "llm")
        return max(self.needed_bytes, self.unquantized_bytes + others + self.working_bytes)

    @property
    def fits(self) -> bool | None:
        """Whether what is free now is enough; None where that is not known."""
        return None if self.memory is None else self.peak_bytes <= self.memory.free

    def needed_at(self, precision: str) -> int:
        """`needed_bytes` with the language model's weights at another precision."""
        own = next(part.memory_bytes for part in self.parts if part.part == "llm")
        return self.needed_bytes - own + self.language_model_bytes[precision]

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {**asdict(self), "needed_bytes": self.needed_bytes, "peak_bytes": self.peak_bytes, "fits": self.fits}


def plan_model(
    places: Mapping[str, str | Path],
    options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
    context: int = 2000,
    hub: Hub | None = None,
) -> ModelPlan:
    """Plan to load the parts in `places` (folders or hub names), and to hold `context` tokens of dialog.

    `hub` is asked for sizes, None the usual one.

    Raises InputError for a part whose configuration is wrong, or that is not here and not a published one.
    """
    if context < 1:
        raise InputError(f"context={context}: at least 1 token is needed")
    located = locate_parts(places, hub)
    folders = {part: config_folder(place) for part, place in located.items()}
    meta_models = {part: build_meta_model(part, folder) for part, folder in folders.items()}
    model = meta_models["llm"]
    assert isinstance(model, PreTrainedModel)
    options = options.settled(model.num_parameters())
    dtypes = precisions(folders["llm"], options)
    lost = [place for place in located.values() if place.missing]
    return ModelPlan(
        parts=tuple(
            plan_part(place, meta_models[part], dtypes[part], options.quantization if part == "llm" else None)
            for part, place in located.items()
        ),
        device=options.device_map or str(options.place),
        context=context,
        cache_bytes_per_1000_tokens=cache_bytes(model, 1000, dtypes["llm"]),
        cache_bytes=cache_bytes(model, context, dtypes["llm"]),
        working_bytes=WORKING_BYTES,
        unquantized_bytes=unquantized_bytes(model, folders["llm"], options),
        language_model_bytes=language_model_bytes(model, folders["llm"], options),
        memory=all_memory() if options.device_map else device_memory(str(options.place)),
        cache_folder=constants.HF_HUB_CACHE,
        cache_free_bytes=free_on_disk(Path(constants.HF_HUB_CACHE)),
        unavailable=missing_message(lost, len(located)) if lost else None,
    )


def config_folder(place: PartLocation) -> Path:
    """Where the part's configuration can be read now. Raises InputError if nowhere."""
    published = PUBLISHED_CONFIGS / split_revision(place.name)[0]
    if place.folder is not None:
        return place.folder
    if published.is_dir():
        return published
    raise InputError(
        f"{missing_message([place], 1)}\nIts size cannot be told either: the package has configurations of "
        f"{', '.join(published_names())} alone"
    )


def published_names() -> list[str]:
    """Parts whose configuration is in the package."""
    folders = {path.parent for path in PUBLISHED_CONFIGS.rglob("config.json")}
    return sorted(str(folder.relative_to(PUBLISHED_CONFIGS)) for folder in folders)


def precisions(llm_folder: Path, options: LoadOptions) -> dict[str, torch.dtype]:
    """Of each part in memory, as `usdm.chain.components.load_parts` makes them."""
    return {
        "units": torch.float32,
        "llm": options.dtype or loaded_dtype(llm_folder, options),
        "decoder": options.decoder_dtype or torch.float32,
        "vocoder": torch.float32,
    }


def config_dtype(folder: Path) -> torch.dtype:
    """Of the weights that a configuration belongs to."""
    config = read_config(folder)
    dtype: torch.dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    return dtype


def loaded_dtype(llm_folder: Path, options: LoadOptions) -> torch.dtype:
    """What `usdm.lm.load_model` makes of a language model, but for its quantised weights, when it is told no dtype."""
    stored = config_dtype(llm_folder)
    single = not options.on_cuda and (stored == torch.float16 or options.quantization is not None)
    return torch.float32 if single else stored


def unquantized_bytes(model: PreTrainedModel, folder: Path, options: LoadOptions) -> int:
    if options.quantization is None or options.on_cuda:  # or quantised on the way to the GPU
        return 0
    stored = torch.float32 if config_dtype(folder) == torch.float16 else config_dtype(folder)
    return weight_bytes(model, options.dtype or stored)


def free_on_disk(folder: Path) -> int:
    """Bytes free where a folder is, or would be made."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def plan_part(place: PartLocation, meta_model: nn.Module, dtype: torch.dtype, quantization: str | None) -> PartPlan:
    where: Where = "cached" if place.cached else "local"
    if place.folder is None:
        where = "not here" if place.missing else "to download"
    if place.folder is not None:
        on_disk = folder_bytes(place.part, place.folder)
    else:
        on_disk = place.hub_bytes or weight_bytes(meta_model, config_dtype(config_folder(place)))
    return PartPlan(
        part=place.part,
        name=place.name,
        where=where,
        folder=None if place.folder is None else str(place.folder),
        parameters=sum(tensor.numel() for tensor in meta_model.parameters()),
        precision=quantization or str(dtype).removeprefix("torch."),
        memory_bytes=weight_bytes(meta_model, dtype, quantization),
        disk_bytes=on_disk,
        disk_estimated=place.missing,
        to_download=place.folder is None and is_hub_name(place.name),
    )


def folder_bytes(part: str, folder: Path) -> int:
    """Of the files that are read of a part."""
    files = (path for path in folder.iterdir() if path.is_file() and matches(path.name, NEEDED_FILES[part]))
    return sum(path.stat().st_size for path in files)


def language_model_bytes(model: PreTrainedModel, folder: Path, options: LoadOptions) -> dict[str, int]:
    """Of its weights by precision."""
    sizes = {name: weight_bytes(model, getattr(torch, name)) for name in get_args(Full)}
    for name in get_args(Quantization):
        left_alone = options.dtype or loaded_dtype(folder, replace(options, quantization=name))
        sizes[name] = weight_bytes(model, left_alone, name)
    return sizes
