"""Experiments: what several stages agree on, and what each verb does differently, in one file.

`experiment/<name>.yaml` holds keys of every verb and, under a verb's name, keys of that verb alone; `defaults: [tiny]`
goes on from another experiment. Hydra would give every verb the whole file. So this source of configurations, which
Hydra asks before its own, shows each file to a verb as two: `experiment/<name>` without the verbs' sections, and the
verb's own section as `experiment/<name>/<verb>`, which comes right after it. All else, from overrides to sweeps, is
Hydra's ordinary composition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import yaml  # type: ignore[import-untyped]
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from usdm.config.schemas import SCHEMAS
from usdm.types import InputError

GROUP = "experiment"
# Verbs that take the section of another.
SECTION_OF = {"evaluate_pretraining": "pretrain", "evaluate_finetuning": "finetune"}
STAGES = tuple(verb for verb, schema in SCHEMAS.items() if "shared" in {field.name for field in fields(schema)})


def show_experiments(verb: str, folders: Iterable[Path]) -> None:
    """From now on Hydra finds the experiments in `folders`, the first one first, as the verb sees them."""
    ExperimentsFirst.verb = SECTION_OF.get(verb, verb)
    ExperimentsFirst.folders = [folder.resolve() for folder in folders]
    Plugins.instance().register(ExperimentSource)
    Plugins.instance().register(ExperimentsFirst)


class ExperimentsFirst(SearchPathPlugin):
    """Puts the sources of `show_experiments` before all others."""

    verb: ClassVar[str] = ""
    folders: ClassVar[list[Path]] = []

    def manipulate_search_path(self, search_path: Any) -> None:
        for folder in reversed(self.folders):
            search_path.prepend(provider="usdm", path=f"{GROUP}://{self.verb}{folder}")


class ExperimentSource(ConfigSource):
    """`experiment/` of one folder as one verb sees it: `experiment://VERB/FOLDER`."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.verb, slash, folder = self.path.partition("/")
        self.folder = Path(slash + folder)

    @staticmethod
    def scheme() -> str:
        return GROUP

    def available(self) -> bool:
        return self.folder.is_dir()

    def is_group(self, config_path: str) -> bool:
        return _in_group(config_path) and (self.folder / config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        if not _in_group(config_path):
            return False
        return self._file(config_path).is_file() or self._is_section(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        if self._is_section(config_path):
            node = _sections(self._file(str(Path(config_path).parent)))[self.verb]
        else:
            node = self._without_sections(self._file(config_path))
        config = OmegaConf.create(node)
        return ConfigResult(self.provider, self.full_path(), config, header={"package": "_global_"})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        folder = self.folder / config_path
        groups = {path.name for path in folder.iterdir() if path.is_dir()}
        configs = {path.stem for path in folder.glob("*.yaml")}
        kept = {ObjectType.GROUP: groups, ObjectType.CONFIG: configs}
        return sorted(groups | configs if results_filter is None else kept[results_filter])

    def _file(self, config_path: str) -> Path:
        return self.folder / self._normalize_file_name(config_path)

    def _is_section(self, config_path: str) -> bool:
        experiment, verb = Path(config_path).parent, Path(config_path).name.removesuffix(".yaml")
        file = self._file(str(experiment))
        return verb == self.verb and file.is_file() and verb in _sections(file)

    def _without_sections(self, file: Path) -> dict[str, Any]:
        """What the file says to every verb, and at the end of its defaults list the verb's own section."""
        written = {key: value for key, value in _read(file).items() if key not in STAGES}
        name = file.relative_to(self.folder / GROUP).as_posix().removesuffix(".yaml")
        written["shared"] = {"name": name, **(written.get("shared") or {})}
        defaults = written.pop("defaults", [])
        overrides = [entry for entry in defaults if str(entry).startswith("{'override ")]
        chosen = [entry for entry in defaults if entry not in overrides]
        chosen += [] if "_self_" in chosen else ["_self_"]
        chosen += [f"/{GROUP}/{name}/{self.verb}"] if self.verb in _sections(file) else []
        return {"defaults": chosen + overrides, **written}  # Hydra wants overrides last


def verbs_of(experiment: str) -> set[str]:
    """The verbs that an experiment, or one that it goes on from, has a section for (after `show_experiments`)."""
    files = [folder / GROUP / f"{experiment}.yaml" for folder in ExperimentsFirst.folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return set()
    inherited = [entry for entry in _read(file).get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    return set(_sections(file)).union(*map(verbs_of, inherited))


def _in_group(config_path: str) -> bool:
    return config_path == GROUP or config_path.startswith(f"{GROUP}/")


def _sections(file: Path) -> dict[str, Any]:
    """The sections of a file by verb. Raises InputError for one that holds no keys."""
    sections = {key: value for key, value in _read(file).items() if key in STAGES}
    for verb, section in sections.items():
        if not isinstance(section, dict):
            raise InputError(f"{file}: {verb} holds {section!r}; give it keys of `usdm {verb}`, or leave it out")
    return sections


def _read(file: Path) -> dict[str, Any]:
    return _parsed(file, file.stat().st_mtime_ns)


@lru_cache
def _parsed(file: Path, changed: int) -> dict[str, Any]:
    """To be read only: every caller gets the same object."""
    try:
        written = OmegaConf.to_container(OmegaConf.load(file))
    except yaml.YAMLError as error:
        raise InputError(f"{file}: {error}; write it as YAML") from error
    if not isinstance(written, dict):
        raise InputError(f"{file}: an experiment is a mapping of keys to values; write `key: value`")
    return {str(key): value for key, value in written.items()}
