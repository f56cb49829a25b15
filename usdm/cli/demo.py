"""A page to talk to the model, served on this machine."""

from __future__ import annotations

from omegaconf import DictConfig

from demo.app import launch
from usdm.cli.model import load_model


def run(config: DictConfig) -> None:
    pipeline = load_model(config)
    print(f"http://{config.host}:{config.port} (Ctrl-C ends it)", flush=True)
    launch(pipeline, host=config.host, port=config.port, share=config.share)
