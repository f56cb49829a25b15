"""Configuration: where `conf/` lies, what each verb's primary yaml may hold, and the checks before any work."""

from usdm.config.checks import check_config, fits, misfits, missing_keys, parts
from usdm.config.experiments import show_experiments, verbs_of
from usdm.config.folder import added_folders, config_folder
from usdm.config.model_schemas import Precision, ReplyKind
from usdm.config.renamed import check_renamed
from usdm.config.schemas import OUTSIDE, SCHEMAS, arguments, register_schemas
from usdm.config.signatures import OWN_PACKAGES, inspect_arguments, read_arguments

__all__ = [
    "OUTSIDE",
    "OWN_PACKAGES",
    "SCHEMAS",
    "Precision",
    "ReplyKind",
    "added_folders",
    "arguments",
    "check_config",
    "check_renamed",
    "config_folder",
    "fits",
    "inspect_arguments",
    "misfits",
    "missing_keys",
    "parts",
    "read_arguments",
    "show_experiments",
    "verbs_of",
    "register_schemas",
]
