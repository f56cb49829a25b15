"""A server to talk to: OpenAI's Realtime protocol, and single files of speech and text."""

from __future__ import annotations

import os

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from usdm.cli.model import load_pipeline
from usdm.serve.app import build_app
from usdm.serve.limits import Limits
from usdm.serve.model import make_server, warm_up
from usdm.serve.serving import http_server, listen_on

TOKEN = "USDM_TOKEN"  # of the environment: a command line can be read by everybody on the machine


def run(config: DictConfig) -> None:
    limits = Limits(**OmegaConf.to_container(config.limits))  # type: ignore[arg-type]
    token = os.environ.get(TOKEN) or None
    detection = instantiate(config.turn_detection)
    with listen_on(config.host, config.port, token) as listening:
        pipeline = load_pipeline(config)
        server = make_server(pipeline, detection, config.capacity, limits, token, config.chain)
        warm_up(pipeline)
        host, port = listening.getsockname()[:2]
        print(f"http://{host}:{port}/v1 (Ctrl-C ends it)", flush=True)
        http_server(build_app(server), limits).run(sockets=[listening])
