"""A page to talk to the model, served on this machine."""

from __future__ import annotations

from omegaconf import DictConfig

from demo import launch
from usdm.cli.model import load_model


def run(config: DictConfig) -> None:
    app = launch(load_model(config), host=config.host, port=config.port, share=config.share, block=False)
    print(f"{app.local_url} (Ctrl-C ends it)", flush=True)
    app.block_thread()
