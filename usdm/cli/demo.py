"""A page to talk to the model, served on this machine."""

from __future__ import annotations

import os

from hydra.utils import instantiate
from omegaconf import DictConfig

from demo.app import check_login, launch
from usdm.cli.model import load_pipeline
from usdm.lm import warm_up
from usdm.serve.access import check_port
from usdm.types import InputError

LOGIN = "USDM_LOGIN"  # of the environment: a command line can be read by everybody on the machine


def run(config: DictConfig) -> None:
    rule = instantiate(config.turn_detection)
    login = login_of(os.environ.get(LOGIN))
    check_login(config.share, login)
    check_port(config.port)
    pipeline = load_pipeline(config)
    warm_up(pipeline.parts.llm)
    app = launch(pipeline, config.host, config.port, config.share, block=False, rule=rule, login=login)
    print(f"{app.local_url} (Ctrl-C ends it)", flush=True)
    app.block_thread()


def login_of(given: str | None) -> tuple[str, str] | None:
    """NAME:PASSWORD. Raises InputError if one of them is empty."""
    if not given:
        return None
    name, _, password = given.partition(":")
    if not name or not password:
        raise InputError(f"{LOGIN} is no login: set it to NAME:PASSWORD")
    return name, password
