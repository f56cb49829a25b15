"""A composed configuration, held against the code that it feeds before any work begins."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf

from usdm.config.signatures import arguments_of
from usdm.types import LARGEST_SEED, InputError


def check_config(config: DictConfig) -> None:
    """Raises InputError that lists keys that the verb has not (`+key=value` adds anything), every mandatory key without
    a value, a seed that no generator takes, or all arguments that do not fit."""
    known = getattr(OmegaConf.get_type(config), "__dataclass_fields__", None)
    if known and (unknown := [str(key) for key in config if key not in known]):
        near = [f"{key} (did you mean {match}?)" for key in unknown for match in get_close_matches(key, known, 1)]
        raise InputError(f"no setting is called {', '.join(near or unknown)}; --help lists them")
    if missing := sorted(missing_keys(config)):
        keys = " ".join(f"{key}=..." for key in missing)
        raise InputError(f"no value is given for {', '.join(missing)}: add {keys}")
    if (seed := config.get("seed")) is not None and not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed={seed}: it must be a number from 0 to {LARGEST_SEED}")
    if wrong := [problem for path, part in parts(config) for problem in misfits(path, part)]:
        raise InputError("\n".join(wrong))


def missing_keys(config: DictConfig | ListConfig, path: str = "") -> Iterator[str]:
    """Full keys of mandatory values that are not given. (OmegaConf's own gives up where another key refers to one.)"""
    for key, full_key in _own_keys(config, path):
        if OmegaConf.is_missing(config, key):
            yield full_key
        elif OmegaConf.is_config(config[key]):
            yield from missing_keys(config[key], full_key)


def parts(config: DictConfig | ListConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a `_target_`, and its full key; where it is written, not where it is referred to."""
    if isinstance(config, DictConfig) and "_target_" in config:
        yield path, config
    for key, full_key in _own_keys(config, path):
        if not OmegaConf.is_missing(config, key) and OmegaConf.is_config(config[key]):
            yield from parts(config[key], full_key)


def _own_keys(config: DictConfig | ListConfig, path: str) -> Iterator[tuple[Any, str]]:
    """Keys and full keys of what is written in a node itself: what it refers to has a place of its own."""
    keys: list[Any] = list(config) if isinstance(config, DictConfig) else list(range(len(config)))
    for key in keys:
        if not OmegaConf.is_interpolation(config, key):
            yield key, f"{path}.{key}" if path else str(key)


def misfits(path: str, part: DictConfig) -> Iterator[str]:
    """Arguments of a part that its target does not take, or not with such a value."""
    target = part["_target_"]
    try:
        taken = arguments_of(target)
    except (ImportError, ValueError) as error:
        yield f"{path}._target_={target}: cannot be imported; check name and package ({' '.join(str(error).split())})"
        return
    for key in map(str, part):
        if key.startswith("_") or (key not in taken.hints and taken.anything):
            continue
        if key not in taken.hints:
            yield f"{path}.{key}: {target} has no such argument, only {', '.join(taken.hints)}"
        elif not fits(part[key], taken.hints[key]):
            yield f"{path}.{key}={part[key]!r}: {target} takes {_readable(taken.hints[key])} there"


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value suits an annotation; what a configuration cannot know is let through."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint in (bool, int, str, Path):
        return type(value) is (str if hint is Path else hint)
    return value is not None or hint is Any


def _readable(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "")
