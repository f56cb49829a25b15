"""Where each job of a sweep puts what it makes.

`usdm VERB -m loop.learning_rate=1e-4,3e-4` is two jobs of one `output_dir`. Each gets a folder below it, named by the
keys that the sweep varies: `<output_dir>/sweep/loop.learning_rate=0.0001`. The name depends on the job alone, not on
its number or on the other jobs, so that a job finds what it left in an earlier sweep. Not in the name are

- keys that `output_dir` is itself put together from (`-m shared.folder=a,b` works in `a/decoder` and `b/decoder`),
- keys that `hydra.sweep.subdir` is put together from: their jobs work in one folder on purpose, each with its share
  (`shard` of `synthesize`, `job` of `extract_units`),
- keys in `hydra.job.config.override_dirname.exclude_keys`, where `usdm.cli.sweep` puts all that the sweep keeps fixed.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

FOLDER = "output_dir"
FILES = ("output", "trace", "json")  # of verbs that write single files
SWEEPS = "sweep"
LONGEST = 100  # characters of a name; file systems take 255 bytes
REFERENCE = re.compile(r"\$\{\s*([^{}:\s]+)\s*\}")


def folder_of_job(_root_: DictConfig) -> str:
    """Of the job that is composed in `_root_`, or of the sweep as a whole where no job is."""
    key = next((key for key in (FOLDER, *FILES) if _root_.get(key) is not None), None)
    base = Path("." if key is None else _root_[key] if key == FOLDER else Path(_root_[key]).parent)
    if OmegaConf.is_missing(_root_.hydra.job, "num"):
        return str(base / SWEEPS)
    return str(base if key is None else _below(base, job_name(_root_, _root_.hydra, key)))


OmegaConf.register_new_resolver(
    "folder_of_job", folder_of_job, replace=True
)  # here, since each job's process has it so


def give_own_places(config: DictConfig) -> None:
    """Let the folder or files that a job of a sweep writes be its own."""
    names = {key: job_name(config, HydraConfig.get(), key) for key in (FOLDER, *FILES) if config.get(key) is not None}
    for key, name in names.items():
        place = Path(config[key])
        config[key] = str(_below(place, name) if key == FOLDER else _below(place.parent, name) / place.name)
        if name and key != FOLDER and place.parent.is_dir():  # else the verb says what is wrong with it
            Path(config[key]).parent.mkdir(parents=True, exist_ok=True)


def job_name(config: DictConfig, hydra: Any, key: str) -> str:
    """The overrides that tell a job from others which write to the same `key`; empty if it is the only one."""
    named_already = {*hydra.job.config.override_dirname.exclude_keys, *made_of(config, key)}
    subdir = str(OmegaConf.to_container(hydra.sweep)["subdir"])  # type: ignore[call-overload, index]
    for shared in REFERENCE.findall(subdir):
        named_already |= made_of(config, shared)
    overrides = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    told = [each for each in overrides if each.key_or_group not in named_already]
    return short(",".join(sorted(f"{each.get_key_element()}={each.get_value_element_as_str()}" for each in told)))


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


def short(text: str) -> str:
    """The text as a name for a file: itself where it can be, else its start and a hash of it all."""
    safe = re.sub(r"[^\w.,=@+-]+", "_", text)
    if safe == text and len(text) <= LONGEST:
        return text
    return f"{safe[: LONGEST - 9]}-{sha256(text.encode()).hexdigest()[:8]}"


def _below(folder: Path, name: str) -> Path:
    return folder / SWEEPS / name if name else folder


def _written(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
