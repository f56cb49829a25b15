"""`usdm VERB key=value ...`: finds the verb, lets Hydra compose its configuration, checks it, runs the verb.

A verb's module is imported only when it is asked for, so that `usdm --help` answers at once. Whatever can be
expected to go wrong ends as one message on stderr: exit status 2 for bad input, 1 for work that failed.
`debug=true` shows the stack trace instead.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usdm.cli import Figures, WorkFailed, installed_version

if TYPE_CHECKING:
    from omegaconf import DictConfig

SCORES = ("evaluate", "predict", "score", "compare_results", "gate", "attribute_errors", "report")
PARTS = ("compare_deliveries", "compare_sampling", "compare_streaming", "compare_turn_detection", "compare_voices")
COMPARISONS = ("compare_models", *PARTS)
MEASURES = (
    "plan",
    "doctor",
    *SCORES,
    "evaluate_assistant",
    "evaluate_pairs",
    "evaluate_classifier",
    "evaluate_rejection",
    "evaluate_knowledge",
    "benchmark",
    "measure_conversation",
    "check_echo",
)
FIRST_VERBS = ("respond", "synthesize", "demo", "serve", *MEASURES, *COMPARISONS)
TAKE_FOLDERS = ("compare_results", "report")  # as they are, after the verb
JSON_ON_STDOUT = {"--json": "json=-"}  # of `usdm status`
WORK_FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130  # what shells report for Ctrl-C
NOBODY_READS = 141  # and for a program whose output goes to one that has ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb with the command line's arguments and give the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return report("help", arguments, debug=False, work=lambda: print(overview()))
    if arguments[0] in ("-V", "--version"):
        print(f"usdm {installed_version('usdm')}")
        return 0
    verb, rest = arguments[0], [JSON_ON_STDOUT.get(argument, argument) for argument in arguments[1:]]
    if verb in TAKE_FOLDERS:
        rest = folders_as_override(rest)
    if verb not in verbs():
        print(f"usdm: {unknown_verb(verb)}", file=sys.stderr)
        return BAD_INPUT
    debug = any(argument.lower() == "debug=true" for argument in rest) or "HYDRA_FULL_ERROR" in os.environ
    return report(verb, rest, debug, lambda: run_with_hydra(verb, rest, debug))


def folders_as_override(arguments: Sequence[str]) -> list[str]:
    """`A B seed=1` as `folders=['A','B'] seed=1`."""
    folders = [argument for argument in arguments if "=" not in argument and not argument.startswith("-")]
    others = [argument for argument in arguments if argument not in folders]
    quoted = ",".join("'{}'".format(folder.replace("'", "\\'")) for folder in folders)
    return [*others, f"folders=[{quoted}]"] if folders else others


def verbs() -> dict[str, str]:
    """Every verb (a module with `run`) and its line of help, read without importing anything."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(defines_run(node) for node in module.body):
            found[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return found


def defines_run(node: ast.stmt) -> bool:
    """`def run` or `run = `."""
    targets = node.targets if isinstance(node, ast.Assign) else [node]
    return any("run" in (getattr(target, "id", None), getattr(target, "name", None)) for target in targets)


def overview() -> str:
    found = verbs()
    width = max(map(len, found))
    lines = {verb: f"  {verb:<{width}}  {summary}" for verb, summary in found.items()}
    return "\n".join(
        [
            "usage: usdm VERB [key=value ...]",
            "",
            "To use a model:",
            *(lines.pop(verb) for verb in FIRST_VERBS),
            "To make one:",
            *lines.values(),
            "",
            "usdm VERB --help       its settings, their values and the parts that can be swapped",
            "usdm VERB --cfg job    the configuration that it would run with",
            "usdm --version",
        ]
    )


def unknown_verb(verb: str) -> str:
    nearest = difflib.get_close_matches(verb, verbs(), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of {', '.join(verbs())}"
    return f"there is no verb {verb!r}: {hint} (usdm --help lists them)"


def run_with_hydra(verb: str, arguments: Sequence[str], debug: bool) -> None:
    """Compose `conf/<verb>.yaml` under the arguments and hand it to `usdm.cli.<verb>.run`."""
    import hydra  # slow, and not needed to list the verbs
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from usdm.cli.account import account_of
    from usdm.cli.files import hydras_own_errors, named_files
    from usdm.cli.job_folders import added_folder
    from usdm.cli.sweep import Outcome, attempt, table_at_the_end
    from usdm.cli.verb_help import FLAGS, verb_help
    from usdm.config import (
        added_folders,
        check_config,
        check_renamed,
        config_folder,
        register_schemas,
        show_experiments,
    )

    def work(config: DictConfig) -> Figures | None:
        with account_of(config) as settled:
            check_config(config)
            return verb_work(config, settled)

    def verb_work(config: DictConfig, settled: Callable[[bool], None] | None) -> Figures | None:
        from usdm.runs import started_with  # with numpy, which a refusal need not wait for

        with named_files(config):
            started_with(own_command(verb, config), settled)
            figures: Figures | None = importlib.import_module(f"usdm.cli.{verb}").run(config)
        return figures

    def job(config: DictConfig) -> Outcome | None:
        hydra_config = HydraConfig.get()
        reported = partial(report, verb, [*added_folder(hydra_config), *hydra_config.overrides.task], debug)
        if hydra_config.mode == RunMode.MULTIRUN:
            return attempt(config, work, reported)

        def alone() -> None:
            work(config)

        if status := reported(alone):
            sys.exit(status)  # not an exception, to which Hydra would add lines of its own
        return None

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a `_target_` may be the user's own
    check_renamed(arguments)
    register_schemas([verb])
    show_experiments(verb, [config_folder(), *added_folders(arguments)])
    arguments = [quote_as_written(argument) for argument in arguments]
    if any(flag in arguments for flag in FLAGS):
        print(verb_help(verb, verbs()[verb], arguments))
        return
    entry = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=verb)(job)
    with hydra_command_line([f"usdm {verb}", *arguments]), hydras_own_errors(), table_at_the_end():
        entry()


def own_command(verb: str, config: DictConfig) -> str:
    """That does a job's work again, of a sweep's job too."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from usdm.cli.job_folders import added_folder

    overrides = list(HydraConfig.get().overrides.task)
    if HydraConfig.get().mode == RunMode.MULTIRUN and config.get("output_dir") is not None:  # a place of its own
        overrides = [each for each in overrides if not each.startswith("output_dir=")]
        overrides.append(f"output_dir='{config.output_dir}'")
    return shlex.join(["usdm", verb, *added_folder(HydraConfig.get()), *overrides])


def quote_as_written(argument: str) -> str:
    """What people say has apostrophes and commas, and their files have `=`, brackets and letters of any script, which
    Hydra's grammar gives other meanings or none: `text=` and the paths of what is there are quoted."""
    key, equals, value = argument.partition("=")
    if not equals or value in ("", "null") or value[:1] in ("'", '"'):
        return argument
    return f"{key}={quoted(value)}" if key == "text" or is_path_to_quote(value) else argument


def is_path_to_quote(value: str) -> bool:
    """Whether a file or folder of that name is there, or could be, and Hydra would not take the name as it is."""
    if re.fullmatch(r"[\w./:@%+ -]*", value, re.ASCII):
        return False
    path = Path(value)
    try:
        return path.exists() or (path.parent != Path() and path.parent.is_dir())
    except (OSError, ValueError):  # longer than any path
        return False


def quoted(value: str) -> str:
    """In single quotes, so that Hydra and OmegaConf leave every character as it is."""
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # no interpolation
    value = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", value) + "'"


@contextmanager
def hydra_command_line(arguments: list[str]) -> Iterator[None]:
    """Hydra reads `sys.argv`, and raises what went wrong rather than printing it if this variable is set."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = arguments, "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def report(verb: str, arguments: Sequence[str], debug: bool, work: Callable[[], None]) -> int:
    """Do the work and give the exit status. An error that the user can act on is told in a message (`debug`: raised),
    anything else with its trace, as a defect."""
    try:
        work()
        sys.stdout.flush()
    except SystemExit as stop:  # Hydra's own --help, --cfg and usage errors
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print(f"usdm {verb}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try once more
        return NOBODY_READS
    except Exception as error:
        expected = expected_error(error)
        if expected is None:
            traceback.print_exception(error)
            print(f"usdm {verb}: {defect(verb, arguments)}", file=sys.stderr)
            return WORK_FAILED
        if debug:
            raise
        print(f"usdm {verb}: {message(expected)}", file=sys.stderr)
        return WORK_FAILED if isinstance(expected, WorkFailed) else BAD_INPUT
    return 0


def expected_error(error: BaseException) -> BaseException | None:
    """The error that the user can act on, found under Hydra's wrappers, or None if it is a defect of ours."""
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    from usdm.config import OWN_PACKAGES
    from usdm.types import InputError

    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return expected_error(error.__cause__)
    if isinstance(error, ModuleNotFoundError):
        return None if (error.name or "").partition(".")[0] in OWN_PACKAGES else error
    if isinstance(error, OSError) and "_torchaudio" in str(error):  # its library, which `import torchaudio` loads
        return WorkFailed(
            f"{error} ({error.__cause__}): the installed torchaudio is no build for the installed torch, one of them "
            "for CUDA and one without, say; install both from the same index"
        )
    if isinstance(error, ConfigAttributeError | ConfigKeyError):  # asked for by our code: Hydra wraps the user's own
        return None
    kinds = (WorkFailed, InputError, HydraException, OmegaConfBaseException)
    return error if isinstance(error, kinds) else None


def message(error: BaseException) -> str:
    """The error's text; Hydra's composition errors name the key in their cause, so that is shown too."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; install it with what all verbs use: pip install 'usdm[train,evaluate,serve]'"
    if unknown := re.match(r"Could not override '([^']+)'\. No match", str(error)):  # Hydra advises what fails as well
        return f"this verb has no part {unknown[1]!r} to choose; --help after the verb lists its parts and settings"
    if "To append to your config use" in str(error):  # the same
        return unknown_setting(error.__cause__)
    parts = [str(error).partition("Config search path:")[0]]  # Hydra's own, under a list of what there is to choose
    if type(error).__module__.startswith("hydra.") and error.__cause__ is not None:
        parts.append(str(error.__cause__))
    if "Could not find 'model/" in parts[0]:
        parts.append("A model of your own is a folder: model.name=FOLDER")
    if type(error).__name__ == "OverrideParseException":
        parts.append("A value with characters of a meaning in this grammar needs quotes: \"key='value'\"")
    return "\n".join(part.strip() for part in parts)


def unknown_setting(error: Any) -> str:
    """Of OmegaConf's error for a key that is not there."""
    known = [str(key) for key in error.parent_node]
    near = [f" (did you mean {name}?)" for name in difflib.get_close_matches(str(error.key), known, 1)]
    added = f"; where its part takes it all the same, +{error.full_key}=... adds it" if "." in error.full_key else ""
    return f"no setting is called {error.full_key}{''.join(near)}; --help lists them{added}"


def defect(verb: str, arguments: Sequence[str]) -> str:
    return (
        "this is a defect of usdm, and no fault of what it was given. Please report it, with the trace above and the "
        f"command: {shlex.join(['usdm', verb, *arguments])}"
    )


if __name__ == "__main__":
    sys.exit(main())
