"""The `usdm` command: one verb a file, each with its primary yaml of the same name in `conf/`.

A verb's module has `run(config)`; the first line of its docstring is its line in `usdm --help`.
"""


class WorkFailed(RuntimeError):  # noqa: N818 (an outcome, not a defect)
    """The input was fine and the work was done, but not all of it succeeded (exit status 1)."""


class JobFailed(Exception):  # noqa: N818 (an outcome)
    """One job of several failed, and has told why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
