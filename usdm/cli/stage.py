"""A verb whose work is one function: it names the function, and says how to tell what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig

from usdm.cli import Figures, WorkFailed
from usdm.config import arguments

Result = TypeVar("Result")


def numbers(result: Any) -> Figures:
    """The numbers that a result holds by name, be it a dataclass or a mapping."""
    items: Mapping[str, Any] = {}
    if is_dataclass(result):
        items = {field.name: getattr(result, field.name) for field in fields(result)}
    elif isinstance(result, Mapping):
        items = result
    return {key: value for key, value in items.items() if type(value) in (int, float)}


@dataclass(frozen=True)
class Stage(Generic[Result]):
    """Calls `function` with the verb's own settings as keyword arguments; its name and theirs are the same."""

    function: Callable[..., Result]
    tell: Callable[[Result, DictConfig], None]  # raises WorkFailed where not all succeeded
    figures: Callable[[Result], Figures] = numbers

    def __call__(self, config: DictConfig) -> Figures:
        result = self.function(**arguments(config))
        try:
            self.tell(result, config)
        except WorkFailed as failure:
            failure.figures = self.figures(result)
            raise
        return self.figures(result)
