"""What a run's folder says about the run: its whole configuration and the overrides in `.hydra/`, versions and seed.

Hydra would write them before the verb has looked at the folder: a run that is refused there would leave its own
configuration beside another one's results.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from usdm.cli import WorkFailed, installed_version

CHOICE = "results@hydra"  # in `conf/VERB.yaml`
FOLDER = ".hydra"  # as Hydra calls it
VERSIONS_FILE = "versions.json"
PACKAGES = ("usdm", "torch", "transformers")


@contextmanager
def account_of(config: DictConfig) -> Iterator[Callable[[bool], None] | None]:
    """For what a job does in the block: to be called once its folder is its own, with whether all is done there.

    None for a verb that has no folder of its own. A verb that claims none keeps its account once it has ended; one that
    is refused leaves no trace.
    """
    hydra = HydraConfig.get()
    if hydra.runtime.choices.get(CHOICE) != "folder":
        yield None
        return
    account = _Account(config)
    try:
        yield account.settle
        account.settle()
    except WorkFailed:
        account.settle()
        raise
    finally:
        if not account.is_settled:
            account.is_settled = True  # whatever else this process may claim
            _leave_no_trace(account.folder)


class _Account:
    """Of the job that Hydra runs at the moment, as things are now."""

    def __init__(self, config: DictConfig) -> None:
        hydra = HydraConfig.instance().cfg
        assert hydra is not None
        self.folder = Path(HydraConfig.get().runtime.output_dir)
        self.is_settled = False
        self._seed: int | None = config.get("seed")
        self._texts = {
            "config.yaml": OmegaConf.to_yaml(config),
            "hydra.yaml": OmegaConf.to_yaml(hydra),
            "overrides.yaml": OmegaConf.to_yaml(HydraConfig.get().overrides.task),
        }

    def settle(self, done: bool = False) -> None:
        """Write it, unless `done`: whoever did the work has left one."""
        from usdm.runs import write_text  # with numpy, which a refusal need not wait for

        if not self.is_settled and not (done and (self.folder / FOLDER).is_dir()):
            (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
            for name, text in self._texts.items():
                write_text(self.folder / FOLDER / name, text)
            write_text(self.folder / VERSIONS_FILE, json.dumps(_facts(self._seed), indent=2) + "\n")
        self.is_settled = True


def _facts(seed: int | None) -> dict[str, str | int | None]:
    """What a run depends on beside its configuration."""
    facts: dict[str, str | int | None] = {name: installed_version(name) for name in PACKAGES}
    return facts | {"python": platform.python_version(), "platform": platform.platform(), "seed": seed}


def _leave_no_trace(folder: Path) -> None:
    """Remove the folder that Hydra has made, if nothing is in it, and the log that would be written there."""
    try:
        folder.rmdir()
    except OSError:  # something is in it
        return
    logger = logging.getLogger()
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder:
            logger.removeHandler(handler)
            handler.close()
