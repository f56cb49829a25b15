"""What a model needs of memory and disk, and whether this machine has it."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from usdm.audio import check_output_path
from usdm.chain import bundle_locations
from usdm.chain.locations import PART_NAMES
from usdm.chain.plan import ModelPlan, PartPlan, plan_model
from usdm.cli import Figures, WorkFailed
from usdm.cli.model import load_options
from usdm.types import InputError

GB = 10**9  # bytes


def run(config: DictConfig) -> Figures:
    if config.json is not None:
        check_output_path(config.json, ".json")
    plan = plan_model(model_places(config.model), load_options(config), config.context)
    print(report(plan))
    if config.json is not None:
        Path(config.json).write_text(json.dumps(plan.to_dict(), indent=2) + "\n", encoding="utf-8")
    if config.must_fit and not plan.fits:
        raise WorkFailed(f"the model does not fit: {verdict(plan)}")
    return {"needed_bytes": plan.needed_bytes}


def model_places(model: DictConfig) -> dict[str, str | Path]:
    """Where the parts of `model=...` are to be looked for. Raises InputError for a model without such parts."""
    if "name" in model:
        return bundle_locations(model.name, {part: model.get(part) for part in PART_NAMES})
    places = {part: model.get(part) for part in PART_NAMES}
    if places["vocoder"] is None:
        del places["vocoder"]  # of a decoder that makes sound by itself
    if strange := [part for part, place in places.items() if not isinstance(place, str)]:
        raise InputError(f"this model has no folder or hub name for {', '.join(strange)}, so it cannot be planned")
    return places


def report(plan: ModelPlan) -> str:
    """The plan as a table and a verdict."""
    lines = [f"{'part':<9}{'parameters':>12}  {'precision':<10}{'memory':>10}{'on disk':>10}  where"]
    lines += [part_line(part) for part in plan.parts]
    per_thousand = f"({size(plan.cache_bytes_per_1000_tokens)} per 1,000 tokens)"
    lines += [
        f"{'cache':<33}{size(plan.cache_bytes):>10}  of {plan.context:,} tokens {per_thousand}",
        f"{'working':<33}{size(plan.working_bytes):>10}  an estimate",
        f"{'in all':<33}{size(plan.needed_bytes):>10}",
        "",
    ]
    others = ", ".join(f"{name} {size(count)}" for name, count in plan.language_model_bytes.items())
    lines += [f"language model by precision: {others}", downloads(plan), verdict(plan)]
    if plan.unavailable is not None:
        lines += ["", plan.unavailable]
    return "\n".join(lines)


def part_line(part: PartPlan) -> str:
    disk = f"{'~' if part.disk_estimated else ''}{size(part.disk_bytes)}"
    where = f"{part.where}: {part.folder or part.name}"
    millions = f"{part.parameters / 1e6:,.1f} M"
    return f"{part.part:<9}{millions:>12}  {part.precision:<10}{size(part.memory_bytes):>10}{disk:>10}  {where}"


def downloads(plan: ModelPlan) -> str:
    """How much is to come from the hub, and whether its cache has room."""
    parts = [part for part in plan.parts if part.to_download]
    if not parts:
        return "to download: nothing"
    total = sum(part.disk_bytes for part in parts)
    offline = any(part.disk_estimated for part in parts)
    how_much = f"unknown offline, about {size(total)}" if offline else size(total)
    room = "" if total <= plan.cache_free_bytes else ", too little"
    return f"to download: {how_much} to {plan.cache_folder} ({size(plan.cache_free_bytes)} free there{room})"


def verdict(plan: ModelPlan) -> str:
    """Whether it fits, and if not, what would."""
    if plan.memory is None:
        return f"device={plan.device}: needs {size(plan.needed_bytes)}; this machine has none, or does not tell"
    needs = size(plan.needed_bytes)
    if plan.peak_bytes > plan.needed_bytes:
        needs += f", {size(plan.peak_bytes)} while it is loaded,"
    there = f"of {size(plan.memory.free)} free ({size(plan.memory.total)} in all)"
    line = (
        f"device={plan.device} ({plan.memory.name}): needs {needs} {there}: {'fits' if plan.fits else 'does not fit'}"
    )
    if plan.fits:
        return line
    better = [key for name, key in ways(plan).items() if plan.needed_at(name) <= plan.memory.free]
    return f"{line}, but would with {better[0]}" if better else f"{line}, at no precision"


def ways(plan: ModelPlan) -> dict[str, str]:
    """Precisions of the language model that take less memory than the planned one, the best first, and their keys."""
    own = next(part.memory_bytes for part in plan.parts if part.part == "llm")
    keys = {"bfloat16": "dtype=bfloat16"}
    if plan.device != "cpu":  # there a model is loaded whole before it is quantised
        keys |= {"int8": "quantization=int8", "int4": "quantization=int4"}
    return {name: key for name, key in keys.items() if plan.language_model_bytes[name] < own}


def size(count: int) -> str:
    """Bytes in decimal units, as disks are sold."""
    return f"{count / GB:,.1f} GB" if count >= GB else f"{count / 1e6:,.1f} MB"
