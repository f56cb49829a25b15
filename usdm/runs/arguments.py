"""What a call depends on: its arguments, told apart into settings and inputs by their annotations.

An argument that may be a `Path` names an input, which counts by its content; every other one is a setting, which
counts by its value. So nothing has to be listed a second time, and nothing can be forgotten.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from usdm.runs.identity import Places, content_digest
from usdm.types import OWN_PACKAGES, InputError

INSTALLED = {"site-packages", "dist-packages"}  # folders of packages, Debian's the second


@dataclass(frozen=True)
class Arguments:
    """As `claim` takes them."""

    settings: Mapping[str, Any] = field(default_factory=dict)  # as JSON can hold them
    inputs: Mapping[str, Places] = field(default_factory=dict)  # files or folders, by the arguments' full names


def arguments_of(target: Callable[..., Any], given: Mapping[str, Any], but: Collection[str] = ()) -> Arguments:
    """The arguments that `target`, a function or a class, is called with, by name.

    Of dataclasses among them each field is an argument of its own, whose annotation says what it is. `but` names those
    that decide nothing, such as the folder of the results. A function may give `locals()` in its first line.

    Raises:
        InputError: a value that no record can hold; or a path of something that is there, under an annotation without
            `Path`, so that its content would not count.
    """
    inputs: dict[str, Places] = {}
    settings = _settings(target, [pair for pair in given.items() if pair[0] not in but], "", inputs)
    return Arguments(settings, inputs)


def _settings(
    target: Callable[..., Any], pairs: Iterable[tuple[str, Any]], prefix: str, inputs: dict[str, Places]
) -> dict[str, Any]:
    """The arguments that are settings; those that are inputs are noted under their full names."""
    hints, settings = _hints(target), {}
    for name, value in pairs:
        if not _may_be_path(hints.get(name)):
            settings[name] = _setting(value, f"{prefix}{name}", inputs)
        elif isinstance(value, Mapping):
            inputs |= {f"{prefix}{name}.{key}": place for key, place in value.items()}
        else:
            inputs[f"{prefix}{name}"] = value
    return settings


def _setting(value: Any, name: str, inputs: dict[str, Places]) -> Any:
    """As JSON can hold it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str) and "/" in value and Path(value).exists():
        raise InputError(f"{name}={value} is there: add Path to the argument's annotation, so that the content counts")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        pairs = [(each.name, getattr(value, each.name)) for each in fields(value)]
        kind = {"type": type(value).__name__, **own_source(type(value))}
        return kind | _settings(type(value), pairs, f"{name}.", inputs)
    if isinstance(value, Mapping):
        return {str(key): _setting(one, f"{name}.{key}", inputs) for key, one in value.items()}
    if isinstance(value, Set):
        return sorted(_setting(one, name, inputs) for one in value)
    if isinstance(value, Sequence):
        return [_setting(one, f"{name}.{number}", inputs) for number, one in enumerate(value)]
    raise InputError(f"{name}: a {type(value).__name__} cannot be recorded: give plain values, or a dataclass of them")


def own_source(kind: type) -> dict[str, str]:
    """What the module of a user's own class holds, which decides what it does; a package is known by its version."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is None or kind.__module__.partition(".")[0] in OWN_PACKAGES or INSTALLED.intersection(Path(file).parts):
        return {}
    return {"source": content_digest(file)}


def _may_be_path(hint: Any) -> bool:
    return hint is Path or any(_may_be_path(part) for part in typing.get_args(hint))


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a function's arguments, a dataclass' fields or a class' constructor."""
    annotated = target.__init__ if inspect.isclass(target) and not is_dataclass(target) else target
    try:
        return typing.get_type_hints(annotated)
    except NameError:
        return {name: _hint(annotated, text) for name, text in inspect.get_annotations(annotated).items()}


def _hint(annotated: Callable[..., Any], text: Any) -> Any:
    """An annotation as Python has it; what is imported for type checking alone may be anything but a path."""
    if not isinstance(text, str):
        return text  # of a module whose annotations are no strings
    try:
        return eval(text, vars(sys.modules[annotated.__module__]))
    except NameError as error:
        if "Path" in text:
            raise InputError(f"{annotated}: {text!r} cannot be read ({error}): import what it names") from error
        return Any
