"""The rooms stand in rows, and a room imports only from its own room and from lower rows.

Every import counts: at the top of a module, inside a function, or for type checking only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TREES = ("usdm", "data_prep", "demo")

ROWS = [
    ["usdm.types", "usdm.system_packages"],
    ["usdm.config", "usdm.checkpoint", "usdm.audio", "usdm.runs"],
    ["usdm.units", "usdm.tokens", "usdm.decoder", "usdm.vocoder"],
    ["usdm.unit_to_speech"],
    ["usdm.interleave", "usdm.lm", "usdm.metrics"],
    ["usdm.data", "usdm.chain", "usdm.turns"],
    ["usdm.asr"],
    ["usdm.benchmark", "usdm.conversation", "usdm.inspection", "usdm.pairs"],
    ["usdm.training", "usdm.evaluation", "usdm.serve", "usdm"],  # the package itself shows the chain to its users
    ["usdm.assistants", "usdm.knowledge"],
    ["data_prep", "demo"],
    ["usdm.cli"],  # starts everything else
]
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
MAY_COMPOSE = {"usdm.cli", "usdm.config", "data_prep", "demo"}  # rooms that may know of Hydra
COMPOSERS = {"hydra", "omegaconf"}
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}


def read_sources(root: Path) -> dict[str, str]:
    """Module name -> source, a package being its `__init__`."""
    sources = {}
    for tree in TREES:
        for path in sorted((root / tree).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return sources


def imports(module: str, source: str, modules: Mapping[str, str], is_package: bool) -> Iterator[str]:
    """The modules that `module` imports; of `from a import b` it is `a.b` if that is a module, else `a`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in modules else base


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "usdm" and len(parts) > 1 else parts[0]


def problems(sources: Mapping[str, str]) -> list[str]:
    found = []
    packages = {module.rpartition(".")[0] for module in sources}
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        room = room_of(module)
        if room not in ROW:
            found.append(f"{module}: its room {room} has no row; give it one")
            continue
        if set(module.split(".")) & EMPTY_NAMES:
            found.append(f"{module}: the name says nothing; call it by what it holds")
        wanted = set(imports(module, source, sources, module in packages))
        graph[module] = {name for name in wanted if name in sources} - {module}
        for name in sorted(wanted):
            other = room_of(name)
            if name.split(".")[0] in COMPOSERS and room not in MAY_COMPOSE:
                found.append(f"{module}: imports {name}, which only {', '.join(sorted(MAY_COMPOSE))} may")
            elif name.split(".")[0] in TREES and other != room and ROW.get(other, len(ROWS)) >= ROW[room]:
                found.append(f"{module}: imports {name}, which does not stand in a lower row")
    return found + [f"circle: {' -> '.join(path)}" for path in circles(graph)]


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """One path for every back edge of a depth-first walk."""
    found: list[list[str]] = []
    finished: set[str] = set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in finished:
            for following in sorted(graph.get(module, ())):
                walk(following, [*path, module])
            finished.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def test_every_import_goes_down() -> None:
    sources = read_sources(REPOSITORY)
    assert "usdm.types" in sources and "usdm.cli.main" in sources  # the walk found the code
    assert problems(sources) == []


GOOD = {
    "usdm": "from usdm.chain import Pipeline",
    "usdm.types": "import torch",
    "usdm.units": "from usdm.units.extractor import Extractor",
    "usdm.units.extractor": "from usdm.types import Waveform",
    "usdm.chain": "from usdm.units import Extractor",
    "usdm.config": "import omegaconf",
    "usdm.cli": "",
    "usdm.cli.respond": "import hydra\nfrom usdm.chain import Pipeline",
}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("usdm.types", "from usdm.chain import Pipeline", "usdm.types: imports usdm.chain"),
        (
            "usdm.units.extractor",
            "def late():\n    import usdm.chain",
            "usdm.units.extractor: imports usdm.chain",
        ),
        ("usdm.units.extractor", "import usdm.tokens", "does not stand in a lower row"),
        ("usdm.units.extractor", "from usdm import units", "circle: usdm.units -> usdm.units.extractor"),
        ("usdm.units.extractor", "from . import Extractor", "circle: usdm.units -> usdm.units.extractor"),
        ("usdm.units.extractor", "from ..chain import Pipeline", "usdm.units.extractor: imports usdm.chain"),
        ("usdm.units", "from ..chain import Pipeline", "usdm.units: imports usdm.chain"),
        ("usdm.chain", "import hydra.utils", "usdm.chain: imports hydra.utils"),
        ("usdm.chain", "from omegaconf import DictConfig", "usdm.chain: imports omegaconf"),
        ("usdm.chain.utils", "", "the name says nothing"),
        ("usdm.attic", "", "has no row"),
        ("usdm.chain", "import usdm.attic", "usdm.chain: imports usdm.attic"),
        ("demo.app", "import usdm.cli.respond", "demo.app: imports usdm.cli.respond"),
    ],
)
def test_the_checker_sees_a_wrong_import(module: str, source: str, complaint: str) -> None:
    assert problems(GOOD) == []
    found = problems({**GOOD, module: source})
    assert any(complaint in line for line in found), found
