"""Whose fault an error about a file is: the user's if the configuration names the file, else it is a defect of ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from usdm.types import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)  # which comes without a file's name


@contextmanager
def named_files(config: DictConfig) -> Iterator[None]:
    """Raises InputError in place of an OSError that concerns a file which `config` names, or a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL or (error.filename is not None and is_named(Path(os.fsdecode(error.filename)), config)):
            raise InputError(told(error)) from error
        raise


@contextmanager
def hydras_own_errors() -> Iterator[None]:
    """Raises InputError where Hydra refuses its command line (two modes at once), or cannot make a run's folder."""
    try:
        yield
    except (InputError, HydraException, OmegaConfBaseException, BrokenPipeError):  # a missing part is an OSError too
        raise
    except OSError as error:
        raise InputError(told(error)) from error
    except ValueError as error:
        raise InputError(str(error)) from error


def told(error: OSError) -> str:
    """The error as a message."""
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    way_out = "check the path and its permissions"
    if error.errno in FULL:
        way_out = "free some space, or choose another place"
    return f"{place}{error.strerror or error}; {way_out}"


def is_named(path: Path, config: DictConfig) -> bool:
    """Whether a value of the configuration is the file, a folder above it, or a place below it."""
    path = path.absolute()
    values = texts(OmegaConf.to_container(config, resolve=True))
    places = {Path(value).expanduser().absolute() for value in values if value}
    return any(path == place or place in path.parents or path in place.parents for place in places)


def texts(value: Any) -> Iterator[str]:
    """All strings in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)
