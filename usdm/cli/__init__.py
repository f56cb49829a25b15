"""The `usdm` command: one verb a file, each with its primary yaml of the same name in `conf/`.

A verb's module has `run`, which takes the configuration, does the work, tells what came of it and returns its figures:
a function, or a `usdm.cli.stage.Stage` where the work is one function's. The first line of the module's docstring is
the verb's line in `usdm --help`.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

Figures = Mapping[str, float]  # of a verb's result, the most telling first: the table of a sweep shows them


class WorkFailed(RuntimeError):  # noqa: N818 (an outcome, not a defect)
    """The input was fine and the work was done, but not all of it succeeded (exit status 1)."""

    figures: Figures = {}  # of the work that was done


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree that was never installed
        return None
