"""A page to talk to the model, served on this machine."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from demo import launch
from usdm.cli.model import load_pipeline


def run(config: DictConfig) -> None:
    rule = instantiate(config.turn_detection)
    app = launch(load_pipeline(config), config.host, config.port, config.share, block=False, rule=rule)
    print(f"{app.local_url} (Ctrl-C ends it)", flush=True)
    app.block_thread()
