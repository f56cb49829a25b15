"""A model or a scorecard by one command: every stage of an experiment's recipe, in order."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from usdm.chain.locations import EMBEDDED_MODELS
from usdm.cli import Figures, WorkFailed
from usdm.config import added_folders
from usdm.config.experiments import STAGES
from usdm.types import InputError


@dataclass(frozen=True)
class Stage:
    """A verb with its settings."""

    verb: str
    settings: tuple[str, ...]  # as on the command line
    hours: float  # that it takes on two cores

    @property
    def command(self) -> str:
        return shlex.join(["usdm", self.verb, *self.settings])


def run(config: DictConfig) -> Figures:
    stages = recipe(config)
    total = sum(stage.hours for stage in stages)
    print(f"{len(stages)} stages, about {total:.1f} hours on two cores; interrupted, the same command goes on")
    if config.show:
        print("\n".join(f"{stage.command}  # {stage.hours:g} h" for stage in stages))
        return {}
    began, left = time.monotonic(), total
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}  # set for this verb
    for number, stage in enumerate(stages, start=1):
        print(f"[{number}/{len(stages)}, {left:.1f} h left] {stage.command}", flush=True)
        # A process of its own: what a stage holds in memory is gone after it, and it can be run alone in the same way.
        command = [sys.executable, "-m", "usdm.cli.main", stage.verb, *stage.settings]
        status = subprocess.run(command, env=environment).returncode
        if status:
            raise WorkFailed(
                f"stage {number} ended with status {status}; once mended, the same command goes on: {stage.command}"
            )
        left -= stage.hours
    return {"hours": round((time.monotonic() - began) / 3600, 3)}


def recipe(config: DictConfig) -> list[Stage]:
    """The stages with all their settings.

    Raises:
        InputError: `data` is wanted and not given, or `settings` names a verb that no stage has.
    """
    if config.embedded is None:
        config.embedded = str(EMBEDDED_MODELS / "tiny")
    if config.data is None and "${data}" in str(OmegaConf.to_container(config, resolve=False)):
        raise InputError("data=null: give the folder that has what the recipe reads, data=FOLDER.")
    given = OmegaConf.to_container(config, resolve=True)
    assert isinstance(given, dict)
    verbs = {stage["verb"] for stage in given["stages"]}
    if strange := sorted(set(given["settings"]) - verbs):
        raise InputError(f"settings.{strange[0]}: no stage has this verb; choose among {', '.join(sorted(verbs))}")
    own = [part for folder in added_folders(sys.argv[1:]) for part in ("--config-dir", str(folder))]
    chosen = [*own, f"experiment={given['shared']['name']}", f"shared.folder={given['shared']['folder']}"]
    shared = [each for each in HydraConfig.get().overrides.task if each.startswith("shared.")]
    chosen += [each for each in shared if not each.startswith("shared.folder=")]
    debug = ["debug=true"] if given["debug"] else []
    return [
        Stage(
            stage["verb"],
            # A verb that uses a finished model knows of no experiment.
            (
                *(chosen if stage["verb"] in STAGES else own),
                *debug,
                *stage.get("settings", []),
                *given["settings"].get(stage["verb"], []),
            ),
            float(stage["hours"]),
        )
        for stage in given["stages"]
    ]
