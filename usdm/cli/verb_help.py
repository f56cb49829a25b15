"""`usdm VERB --help`: the parts that a verb chooses, and its settings with the comments that their files give them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from usdm.config import added_folders, config_folder
from usdm.config.experiments import GROUP as EXPERIMENT

FLAGS = ("-h", "--help")
SETTING = re.compile(r"^(?P<indent> *)(?P<key>[\w.@]+):(?P<value>.*?)(?: # (?P<comment>.*))?$")

Keys = tuple[str, ...]  # from the configuration down to a setting


def verb_help(verb: str, summary: str, arguments: Sequence[str]) -> str:
    """With what `arguments` choose and set. Raises what Hydra raises for arguments that cannot be composed."""
    added = added_folders(arguments)
    overrides = [each for each in arguments if "=" in each and not each.startswith("-")]
    overrides += [f"hydra.searchpath=[{', '.join(f'file://{folder.resolve()}' for folder in added)}]"] if added else []
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose(verb, overrides=overrides, return_hydra_config=True)
    choices = {str(place): option for place, option in config.hydra.runtime.choices.items()}
    choices = {place: option for place, option in choices.items() if not place.startswith("hydra/")}
    settings = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    folders = [config_folder(), *added]
    return "\n".join(
        [
            f"usage: usdm {verb} [key=value ...]",
            summary,
            *(f"  {line}" for line in remarks(config_folder() / f"{verb}.yaml")),
            "",
            *(["Parts, chosen by name:", *part_lines(verb, choices, folders), ""] if choices else []),
            "Settings, as they are now:",
            *setting_lines(settings, comments(verb, choices, folders)),
            "",
            f"usdm {verb} --cfg job     the configuration alone, as yaml",
            f"usdm {verb} --hydra-help  what Hydra adds: sweeps (-m), folders of your own parts (--config-dir FOLDER)",
        ]
    )


def remarks(file: Path) -> list[str]:
    """What the verb's file says in lines of their own, below its summary: examples, and what concerns many settings."""
    return [line[2:] for line in file.read_text(encoding="utf-8").splitlines()[1:] if line.startswith("# ")]


def part_lines(verb: str, choices: dict[str, Any], folders: Sequence[Path]) -> Iterator[str]:
    """A line for each group that the verb chooses from: what is chosen, and what there is."""
    for place, chosen in sorted(choices.items()):
        options = options_of(verb, place.partition("@")[0], folders)
        choice = f"{place.removesuffix('@_global_')}={'null' if chosen is None else chosen}"
        yield f"  {choice:<32} {', '.join(options)}"


def options_of(verb: str, group: str, folders: Sequence[Path]) -> list[str]:
    """Names of a group's files. Where verbs share a group, a file's first lines may say whose it is:
    `# pretrain, finetune: ...`."""
    files = [file for folder in folders for file in (folder / group).glob("*.yaml")]
    whose = {file.stem: re.search(r"^# ([a-z_, ]+): ", file.read_text(encoding="utf-8"), re.M) for file in files}
    ours = {
        name for name, owners in whose.items() if group != "objective" or not owners or verb in owners[1].split(", ")
    }
    return sorted(ours)


def comments(verb: str, choices: dict[str, Any], folders: Sequence[Path]) -> dict[Keys, str]:
    """Of the verb's file and of each chosen part's, by the path of the key that a comment stands beside."""
    found: dict[Keys, str] = {}
    for place, chosen in choices.items():
        group, _, package = place.partition("@")
        at_root = package == "_global_" or group == EXPERIMENT
        below = () if at_root else tuple((package or group).replace("/", ".").split("."))
        for folder in folders:
            if isinstance(chosen, str) and (file := folder / group / f"{chosen}.yaml").is_file():
                found |= comments_of(file, below)
    found |= {keys[1:]: said for keys, said in found.items() if keys[0] == verb}  # of an experiment's section
    return found | comments_of(config_folder() / f"{verb}.yaml", ())


def comments_of(file: Path, below: Keys) -> dict[Keys, str]:
    """The comments at the ends of a file's lines, by the path of the line's key, which begins with `below`."""
    found: dict[Keys, str] = {}
    above: list[tuple[int, str]] = []  # indent and name of the keys that a line is within
    for line in file.read_text(encoding="utf-8").splitlines():
        if not (setting := SETTING.match(line)):
            continue
        indent = len(setting["indent"])
        above = [(width, key) for width, key in above if width < indent] + [(indent, setting["key"])]
        if setting["comment"]:
            found[(*below, *(key for _, key in above))] = setting["comment"]
    return found


def setting_lines(config: DictConfig, said: dict[Keys, str], path: Keys = ()) -> Iterator[str]:
    """A configuration as yaml, its interpolations as they are written, with comments."""
    indent = "  " * len(path)
    for key in map(str, config):
        place, node = (*path, key), config._get_node(key)
        comment = f"  # {said[place]}" if place in said else ""
        if isinstance(node, DictConfig) and not node._is_missing() and not node._is_none() and len(node):
            yield f"{indent}{key}:{comment}"
            yield from setting_lines(node, said, place)
        else:
            value = OmegaConf.to_container(OmegaConf.masked_copy(config, [key]), resolve=False, enum_to_str=True)
            first, *others = yaml.safe_dump(value, width=float("inf"), sort_keys=False).splitlines()
            yield f"{indent}{first}{comment}"
            yield from (f"{indent}{line}" for line in others)
