"""`average_models`: the mean of several runs' weights, often better than each. Source: model soups (Wortsman et al.,
ICML 2022).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from usdm.checkpoint import make_readable, read_object
from usdm.runs import claim, publishing
from usdm.training.run_folder import MODEL_FOLDER, RECORD_FILE
from usdm.types import InputError

# Weights under another of these mean something else.
_MEANING = ("vocabulary.json", "tokenizer.json", "template.json", "unit_source.json", "units.json")
_WRITTEN_BY = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # of config.json


def average_models(
    models: Sequence[str | Path], shares: Sequence[float], output_dir: str | Path, *, overwrite: bool = False
) -> Path:
    """Mean of model folders that learnt on from the same one -> `output_dir/model`, like the first but for its weights.

    Args:
        models: hub-style folders with `*.safetensors`, in one file or several.
        shares: how much of each; they are divided by their sum.
        overwrite: delete the mean of other models, or by other shares, in `output_dir`.

    Raises:
        InputError: fewer than two models, shares that are not one positive number each, a folder without weights,
            models that differ in more than the values of their weights, or another mean is there.
    """
    if len(models) < 2 or len(models) != len(shares) or min(shares) <= 0:
        raise InputError(
            f"models={list(models)}, shares={list(shares)}: give two models or more, a positive share each"
        )
    folders = [Path(model) for model in models]
    files = [_weight_files(folder) for folder in folders]
    for folder, its in zip(folders[1:], files[1:], strict=True):
        _check_alike(folders[0], files[0], folder, its)
    final = Path(output_dir) / MODEL_FOLDER
    parts_of_one = [share / sum(shares) for share in shares]
    inputs = {"models": folders}
    with claim(output_dir, {"shares": parts_of_one}, inputs, results=[MODEL_FOLDER], overwrite=overwrite) as run:
        with publishing(final, folder=True) as part:
            ignored = shutil.ignore_patterns("*.safetensors", "README.md")
            shutil.copytree(folders[0], part, ignore=ignored, dirs_exist_ok=True)
            for name in files[0]:
                state = _mean([folder / name for folder in folders], parts_of_one)
                save_file(state, part / name, metadata={"format": "pt"})
            make_readable(part)
            _write_record(folders, parts_of_one, part)
        run.finish()
    return final


def _weight_files(folder: Path) -> list[str]:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder}: no .safetensors there; give the folder `model` of a training run")
    return files


def _check_alike(first: Path, first_files: list[str], other: Path, other_files: list[str]) -> None:
    for name in _MEANING:
        ours, theirs = (folder / name for folder in (first, other))
        if ours.is_file() != theirs.is_file() or (ours.is_file() and ours.read_bytes() != theirs.read_bytes()):
            raise InputError(f"{first} and {other} have different {name}: average runs that went on from one model")
    configs = [_config(folder) for folder in (first, other)]
    if changed := sorted(key for key in {**configs[0], **configs[1]} if configs[0].get(key) != configs[1].get(key)):
        key = changed[0]
        raise InputError(
            f"{first} and {other} have different config.json, such as {key}: {configs[0].get(key)} against "
            f"{configs[1].get(key)}; average runs that went on from one model"
        )
    shapes, its = _shapes(first, first_files), _shapes(other, other_files)
    if different := sorted(name for name in shapes | its if shapes.get(name) != its.get(name)):
        name = different[0]
        raise InputError(
            f"{first} and {other} differ in {len(different)} weights, such as {name}: {shapes.get(name)} against "
            f"{its.get(name)}; average runs that went on from one model"
        )


def _config(folder: Path) -> dict[str, Any]:
    """Without what says by which package, from where and in which precision the model was written."""
    config = read_object(folder / "config.json", "copy the model again") if (folder / "config.json").is_file() else {}
    return {key: value for key, value in config.items() if key not in _WRITTEN_BY}


def _shapes(folder: Path, files: list[str]) -> dict[str, tuple[str, list[int]]]:
    """File and shape of each weight, without reading it."""
    found: dict[str, tuple[str, list[int]]] = {}
    for file in files:
        try:
            with safe_open(folder / file, framework="pt") as weights:
                names = weights.keys()
                found |= {name: (file, weights.get_slice(name).get_shape()) for name in names}
        except (SafetensorError, ValueError, OSError) as error:
            raise InputError(f"{folder / file}: damaged or cut off ({error}); train or copy the model again") from error
    return found


def _mean(paths: list[Path], shares: list[float]) -> dict[str, Tensor]:
    """One file's weights; whole numbers, such as counters, as the first has them."""
    state: dict[str, Tensor] = {}
    opened = [safe_open(path, framework="pt") for path in paths]
    names = opened[0].keys()
    for name in names:
        values = [weights.get_tensor(name) for weights in opened]
        state[name] = values[0]
        if values[0].is_floating_point():
            mean = sum(share * value.float() for share, value in zip(shares, values, strict=True))
            state[name] = mean.to(values[0].dtype)
    return state


def _write_record(folders: list[Path], shares: list[float], folder: Path) -> None:
    """The first run's record, with what it is the mean of."""
    path = folder / RECORD_FILE
    record = read_object(path, "train the model again, or take the file away") if path.is_file() else {}
    record["average_of"] = {str(model): share for model, share in zip(folders, shares, strict=True)}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
