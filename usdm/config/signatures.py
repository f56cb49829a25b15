"""What the target of a part takes: read off the source where the code is ours, since to import it takes seconds.

A configuration that does not fit is then refused before torch is loaded. What the source alone does not tell (code of
other packages, a class whose base is theirs, a function behind a decorator) is imported and asked.
"""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from hydra.utils import get_object

from usdm.types import OWN_PACKAGES

PLAIN = {"Any": Any, "bool": bool, "int": int, "float": float, "str": str, "Path": Path}
TRANSPARENT = {"classmethod", "staticmethod"}  # decorators that leave a function's arguments as they are

Definition = ast.ClassDef | ast.FunctionDef | ast.Assign


@dataclass(frozen=True)
class Arguments:
    """Names and annotations of what a target takes, and whether it takes any other keyword."""

    hints: dict[str, Any]
    anything: bool = False


def arguments_of(target: str) -> Arguments:
    """Of a function, a method or a class, by its full name. Raises what an import raises."""
    return read_arguments(target) or inspect_arguments(get_object(target))


def inspect_arguments(target: Callable[..., Any]) -> Arguments:
    """Of imported code."""
    signature = inspect.signature(target)
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except NameError:  # a package's annotations that only a type checker can read
        hints = {}
    named = {
        name: hints.get(name, Any)
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    return Arguments(named, any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()))


def read_arguments(target: str) -> Arguments | None:
    """Of our own code, unimported. None: it is not ours, or the source does not tell."""
    module, names = split(target)
    if module is None or not names:
        return None
    if (found := module.find(names[0])) is None:
        return None
    module, definition = found
    if isinstance(definition, ast.ClassDef) and len(names) == 2:
        return method_arguments(module, definition, names[1])
    if len(names) > 1:
        return None
    if isinstance(definition, ast.ClassDef):
        return class_arguments(module, definition)
    return function_arguments(module, definition) if isinstance(definition, ast.FunctionDef) else None


@dataclass(frozen=True)
class Module:
    """The source of one of our modules."""

    name: str
    body: tuple[ast.stmt, ...]  # of the module, what it imports for type checking included

    def find(self, name: str) -> tuple[Module, Definition] | None:
        """Where `name` is defined, and how; followed through imports from our own modules."""
        for statement in self.body:
            if isinstance(statement, ast.ImportFrom) and not statement.level:
                for alias in statement.names:
                    if (alias.asname or alias.name) == name:
                        source = read_module(statement.module or "")
                        return source.find(alias.name) if source is not None else None
            if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
                return self, statement
            if isinstance(statement, ast.Assign) and any(
                isinstance(left, ast.Name) and left.id == name for left in statement.targets
            ):
                return self, statement
        return None


def split(target: str) -> tuple[Module | None, list[str]]:
    """The longest beginning of a full name that is one of our modules, and the names inside it."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        if (module := read_module(".".join(parts[:length]))) is not None:
            return module, parts[length:]
    return None, parts


@cache
def read_module(name: str) -> Module | None:
    """None if it is not ours, or there is none."""
    package, *parts = name.split(".")
    spec = find_spec(package) if package in OWN_PACKAGES else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent.joinpath(*parts)
    path = next((path for path in (folder / "__init__.py", folder.with_suffix(".py")) if path.is_file()), None)
    if path is None:
        return None
    return Module(name, tuple(_statements(ast.parse(path.read_text(encoding="utf-8")).body)))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.If):  # `if TYPE_CHECKING`
            yield from _statements(statement.body)
        else:
            yield statement


def class_arguments(module: Module, definition: ast.ClassDef) -> Arguments | None:
    """Of a constructor."""
    own = next((node for node in definition.body if _is_function(node, "__init__")), None)
    decorators = [_name(node) for node in definition.decorator_list]
    if own is not None:
        return method_arguments(module, definition, "__init__")
    if decorators == ["dataclass"]:
        return dataclass_arguments(module, definition)
    if decorators or len(definition.bases) > 1:
        return None
    if not definition.bases:
        return Arguments({})
    base = _base(module, definition.bases[0])
    return base and class_arguments(*base)


def dataclass_arguments(module: Module, definition: ast.ClassDef) -> Arguments | None:
    """Its fields, those of the classes that it extends first."""
    hints: dict[str, Any] = {}
    for extended in reversed(definition.bases):
        base = _base(module, extended)
        inherited = base and class_arguments(*base)
        if inherited is None:
            return None
        hints |= inherited.hints
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_argument(node):
            hints[node.target.id] = hint(module, node.annotation)
    return Arguments(hints)


def _is_argument(node: ast.AnnAssign) -> bool:
    """Whether a dataclass's constructor takes a field."""
    annotation = node.annotation.value if isinstance(node.annotation, ast.Subscript) else node.annotation
    given = node.value.keywords if isinstance(node.value, ast.Call) else []
    left_out = any(word.arg == "init" and getattr(word.value, "value", None) is False for word in given)
    return _name(annotation) != "ClassVar" and not left_out


def _base(module: Module, node: ast.expr) -> tuple[Module, ast.ClassDef] | None:
    """A class that is extended, if it is ours."""
    found = module.find(node.id) if isinstance(node, ast.Name) else None
    return (found[0], found[1]) if found is not None and isinstance(found[1], ast.ClassDef) else None


def method_arguments(module: Module, definition: ast.ClassDef, name: str) -> Arguments | None:
    """Of a method as it is called on the class, or of its constructor."""
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            bound = name == "__init__" or any(_name(each) == "classmethod" for each in node.decorator_list)
            return function_arguments(module, node, bound)
    return None


def function_arguments(module: Module, definition: ast.FunctionDef, bound: bool = False) -> Arguments | None:
    """`bound`: the first argument is given already."""
    if any(_name(node) not in TRANSPARENT for node in definition.decorator_list):
        return None
    taken = definition.args
    positional = [*taken.posonlyargs, *taken.args][bound:]
    hints = {each.arg: hint(module, each.annotation) for each in (*positional, *taken.kwonlyargs)}
    return Arguments(hints, anything=taken.kwarg is not None)


def hint(module: Module, node: ast.expr | None) -> Any:
    """An annotation as Python has it; a stand-in of that name for what is neither plain nor made of plain parts."""
    match node:
        case None:
            return Any
        case ast.Constant(value=str(text)):
            return hint(module, ast.parse(text, mode="eval").body)
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name) if name in PLAIN:
            return PLAIN[name]
        case ast.Name(id=name) if (found := module.find(name)) and isinstance(found[1], ast.Assign):
            return hint(found[0], found[1].value)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return hint(module, left) | hint(module, right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return Literal[ast.literal_eval(choices)]
    return type(ast.unparse(node), (), {"__module__": "builtins"})


def _is_function(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == name


def _name(node: ast.expr) -> str:
    """Of a decorator or an annotation, without its arguments and the module before it."""
    while isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
