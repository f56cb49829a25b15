"""Configuration: where `conf/` lies, what each verb's primary yaml may hold, and the checks before any work."""

from usdm.config.checks import check_config, fits, misfits, missing_keys, parameters, parts
from usdm.config.experiments import show_experiments, verbs_of
from usdm.config.folder import added_folders, config_folder
from usdm.config.model_schemas import Precision, ReplyKind
from usdm.config.schemas import OUTSIDE, SCHEMAS, arguments, register_schemas

__all__ = [
    "OUTSIDE",
    "SCHEMAS",
    "Precision",
    "ReplyKind",
    "added_folders",
    "arguments",
    "check_config",
    "config_folder",
    "fits",
    "misfits",
    "missing_keys",
    "parameters",
    "parts",
    "show_experiments",
    "verbs_of",
    "register_schemas",
]
