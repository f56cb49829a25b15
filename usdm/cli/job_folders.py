"""Where each job of a sweep puts what it makes.

`usdm VERB -m loop.learning_rate=1e-4,3e-4` is two jobs of one `output_dir`. Each gets a folder below it, named by the
keys that the sweep varies: `<output_dir>/sweep/loop.learning_rate-0.0001`. The name depends on the job alone, not on
its number or on the other jobs, so that a job finds what it left in an earlier sweep. Not in the name are

- keys that `output_dir` is itself put together from (`-m shared.folder=a,b` works in `a/decoder` and `b/decoder`),
- keys that `hydra.sweep.subdir` is put together from: their jobs work in one folder on purpose, each with its share
  (`shard` of `synthesize`, `job` of `extract_units`),
- keys in `hydra.job.config.override_dirname.exclude_keys`, where `usdm.cli.sweep` puts all that the sweep keeps fixed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, read_write

FOLDER = "output_dir"
FILES = ("output", "trace", "json")  # of verbs that write single files
SWEEPS = "sweep"
ADDED = "command-line"  # as Hydra calls who named a folder with --config-dir
LONGEST = 100  # characters of a name; file systems take 255 bytes
REFERENCE = re.compile(r"\$\{\s*([^{}:\s]+)\s*\}")


def folder_of_job(_root_: DictConfig) -> str:
    """Of the job that is composed in `_root_`, or of the sweep as a whole where no job is."""
    key = next((key for key in (FOLDER, *FILES) if _root_.get(key) is not None), None)
    base = Path("." if key is None else _root_[key] if key == FOLDER else Path(_root_[key]).parent)
    if OmegaConf.is_missing(_root_.hydra.job, "num"):
        return str(base / SWEEPS)
    return str(base if key is None else _below(base, job_name(_root_, _root_.hydra, key)))


# Here, so that it is known in the process of each job.
OmegaConf.register_new_resolver("folder_of_job", folder_of_job, replace=True)


def own_places(config: DictConfig, hydra: Any) -> dict[str, str]:
    """Where a job writes, by key, where that is not what the key says."""
    places = {}
    for key in (FOLDER, *FILES):
        if config.get(key) is not None and (name := job_name(config, hydra, key)):
            place = Path(config[key])
            places[key] = str(_below(place, name) if key == FOLDER else _below(place.parent, name) / place.name)
    return places


def give_own_places(config: DictConfig) -> None:
    """Let the job write there, as if it had been told to: its overrides say so too."""
    hydra: Any = HydraConfig.get()
    for key, place in own_places(config, hydra).items():
        if key != FOLDER and Path(config[key]).parent.is_dir():  # else the verb says what is wrong with it
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        config[key] = place
        with read_write(hydra.overrides):
            hydra.overrides.task.append(as_override(key, place))


def as_override(key: str, place: str) -> str:
    escaped = place.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def added_folder(hydra: Any) -> list[str]:
    """The arguments that name the folder of the user's own configurations, if there is one."""
    paths = [Path(source["path"]) for source in hydra.runtime.config_sources if source["provider"] == ADDED]
    here = Path.cwd()
    told = [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in paths]
    return [argument for path in told for argument in ("--config-dir", path)]


def job_name(config: DictConfig, hydra: Any, key: str) -> str:
    """The overrides that tell a job from others which write to the same `key`; empty if it is the only one."""
    named_already = {*hydra.job.config.override_dirname.exclude_keys, *made_of(config, key)}
    sweep: Any = OmegaConf.to_container(hydra.sweep)
    for shared in REFERENCE.findall(sweep["subdir"]):
        named_already |= made_of(config, shared)
    overrides = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    told = [each for each in overrides if each.key_or_group not in named_already]
    return name_of({each.get_key_element().lstrip("+"): each.get_value_element_as_str() for each in told})


def made_of(config: DictConfig, key: str) -> set[str]:
    """A key, and all keys that its value is put together from."""
    written, found, waiting = OmegaConf.to_container(config), set(), [key]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            value = _written(written, key)
            waiting += REFERENCE.findall(value) if isinstance(value, str) else []
    return found | ({"experiment"} if "shared.name" in found else set())  # which is what the experiment is called


def name_of(settings: Mapping[str, str]) -> str:
    """Settings as a name for a folder, which other commands take without quotes (Hydra's grammar has `=` and `,`)."""
    name = "+".join(f"{key}-{value}" for key, value in sorted(settings.items()))
    safe = re.sub(r"[^\w.@+-]+", "_", name, flags=re.ASCII)
    if safe == name and len(name) <= LONGEST and not any("+" in value for value in settings.values()):
        return name
    return f"{safe[: LONGEST - 9]}-{sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]}"


def _below(folder: Path, name: str) -> Path:
    return folder / SWEEPS / name if name else folder


def _written(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
