"""What became of an experiment's stages: done, running, unfinished, stale because of which input, never made."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from usdm.cli import Figures
from usdm.cli.job_folders import SWEEPS, added_folder, as_override
from usdm.config import verbs_of
from usdm.config.schemas import SCHEMAS
from usdm.runs import RUN_FILE, RunStatus, statuses, write_text

DEFAULT_EXPERIMENT = "tiny"
EXPERIMENT = "experiment="
FIGURES_TOLD = 4
IN_ROOT = re.compile(r"\{root\}/([^,\]]+)")  # in the arguments of a step
PLAIN = re.compile(r"[\w./@+-]+", re.ASCII)  # needs no quotes, be it the shell's or Hydra's


@dataclass(frozen=True)
class Step:
    """A stage of the recipe, as docs/embedded_model.md lists it."""

    folder: str  # in the experiment's
    verb: str
    arguments: str = ""  # {root} is the experiment's folder
    beside: str | None = None  # only in experiments that have this verb too


RECIPE = (
    Step("dialogs", "prepare_dialogs", "train_file=sgd_train.jsonl.gz held_out_file=sgd_dev.jsonl.gz"),
    Step("speech", "synthesize_corpus"),
    Step("held_out", "make_held_out"),
    Step("sentences", "prepare_sentences", "text_files=[austen.txt,wordnet.txt,sgd.txt,kjv.txt]"),
    Step(
        "sentences_speech",
        "synthesize_corpus",
        "dialogs_file={root}/sentences/dialogs.jsonl output_dir={root}/sentences_speech",
        "prepare_sentences",
    ),
    Step("recordings", "import_recordings", "sources=[vctk,speechocean,librispeech]"),
    Step("encoder", "train_encoder"),
    Step("units", "fit_kmeans"),
    Step("unit_corpus", "extract_units"),
    Step(
        "varied",
        "extract_units",
        "corpora=[{root}/speech] augmentation=other_voices output_dir={root}/varied",
        "synthesize_corpus",
    ),
    Step(
        "sentences_units",
        "extract_units",
        "corpora=[{root}/sentences_speech] augmentation=other_voices output_dir={root}/sentences_units",
        "prepare_sentences",
    ),
    Step("tokenizer", "train_tokenizer"),
    Step("pretrain", "pretrain"),
    Step(
        "finetune",
        "finetune",
        "corpora=[{root}/unit_corpus,{root}/varied,{root}/sentences_units]",
        "prepare_sentences",
    ),
    Step("finetune", "finetune"),
    Step("decoder", "train_decoder"),
    Step("vocoder", "train_vocoder"),
    Step("vocoder_adversarial", "train_vocoder", "objective=adversarial"),
    Step("turn_head", "train_turn_head"),
    Step("model", "package_model"),
)

WHOLE_RECIPE = Step("model", "make_model")  # of an experiment that says itself which stages it has


def run(config: DictConfig) -> Figures:
    hydra = HydraConfig.get()
    root, experiment = Path(config.shared.folder), None
    if any(argument.startswith(EXPERIMENT) for argument in hydra.overrides.task):
        experiment = hydra.runtime.choices["experiment"]
    found = stages(root, experiment, added_folder(hydra))
    written = json.dumps([asdict(stage) for stage in found], indent=1, ensure_ascii=False) + "\n"
    if config.json == "-":
        print(written, end="")
    else:
        print(report(root, neighbours(root), found))
        if config.json is not None:
            write_text(config.json, written)
    return {state: sum(stage.state == state for stage in found) for state in ("done", "stale", "unfinished")}


def stages(root: Path, experiment: str | None, added: Sequence[str] = ()) -> list[RunStatus]:
    """Of all folders with runs, then the recipe's stages that were never made, both in the recipe's order.

    `experiment` None is that of the runs which are there.
    """
    found = {status.folder: status for status in statuses(root)}
    for folder, status in found.items():
        command = saved_command(root / folder) if status.command is None else status.command
        if command is not None and status.state == "stale":
            command = anew(command)
        found[folder] = replace(status, command=command)
    experiment = experiment or experiment_of([status.command for status in found.values() if status.command])
    verbs = verbs_of(experiment)
    steps: dict[str, Step] = {}
    for step in [WHOLE_RECIPE] if WHOLE_RECIPE.verb in verbs else RECIPE:
        if step.verb in verbs and (step.beside is None or step.beside in verbs):
            steps.setdefault(step.folder, step)
    for folder, step in steps.items():
        if folder not in found:
            made = any(path.name != SWEEPS for path in (root / folder).glob("*"))
            command = first_command(step, root, experiment, added)
            found[folder] = RunStatus(folder, "unknown" if made else "never made", command=command)
    order = {folder: place for place, folder in enumerate(steps)}

    def place(each: RunStatus) -> tuple[bool, int, str]:
        return each.state == "never made", order.get(each.folder.split("/")[0], len(order)), each.folder

    return sorted(found.values(), key=place)


def experiment_of(commands: Sequence[str]) -> str:
    """The experiment that all of the commands name, else the default one."""
    named = {
        next((word.removeprefix(EXPERIMENT) for word in shlex.split(each) if word.startswith(EXPERIMENT)), None)
        for each in commands
    }
    return (named.pop() if len(named) == 1 else None) or DEFAULT_EXPERIMENT


def neighbours(root: Path) -> list[str]:
    """The folders beside an experiment's that hold runs, or are one."""
    root = root.absolute()
    patterns = [f"{depth}/{name}" for depth in ("*", "*/*") for name in (RUN_FILE, ".hydra")]
    names = {path.relative_to(root.parent).parts[0] for each in patterns for path in root.parent.glob(each)}
    return [os.path.relpath(root.parent / name) for name in sorted(names - {root.name})]


def first_command(step: Step, root: Path, experiment: str, added: Sequence[str] = ()) -> str:
    """As the documents have it; `added` are arguments that name a folder of configurations."""
    words = ["usdm", step.verb, *added]
    words += [f"experiment={experiment}"] if experiment != DEFAULT_EXPERIMENT else []
    words += [f"shared.folder={value(root)}"] if root != Path("runs") / experiment else []
    own = [IN_ROOT.sub(lambda found: value(root / found[1]), word) for word in step.arguments.split()]
    return " ".join([*map(shlex.quote, words), *(own if PLAIN.fullmatch(str(root)) else map(shlex.quote, own))])


def anew(command: str) -> str:
    """The command for a folder that holds what was made of other inputs, which it would be refused for."""
    verb = shlex.split(command)[1]
    keys = SCHEMAS[verb].__dataclass_fields__ if verb in SCHEMAS else {}
    return f"{command} overwrite=true" if "overwrite" in keys and " overwrite=" not in command else command


def value(path: Path) -> str:
    """A path in Hydra's grammar."""
    return str(path) if PLAIN.fullmatch(str(path)) else as_override("", str(path)).removeprefix("=")


def saved_command(folder: Path) -> str | None:
    """Of what Hydra saved in a folder; None if it saved nothing."""
    overrides, job = folder / ".hydra" / "overrides.yaml", folder / ".hydra" / "hydra.yaml"
    if not (overrides.is_file() and job.is_file()):
        return None
    hydra = OmegaConf.load(job).hydra
    written = yaml.safe_load(overrides.read_text(encoding="utf-8"))
    return shlex.join(["usdm", hydra.job.config_name, *added_folder(hydra), *written])


def report(root: Path, others: Sequence[str], found: Sequence[RunStatus]) -> str:
    """The other folders with runs, then a line or two for each stage."""
    width = max(len(stage.folder) for stage in found)
    lines = [f"other folders with runs: {', '.join(others)} (usdm status shared.folder=FOLDER)"] if others else []
    lines.append(str(root) if root.is_dir() else f"{root}: no such folder yet")
    for stage in found:
        facts = [steps_told(stage), figures_told(stage.figures)]
        lines.append("  ".join([f"{stage.folder:<{width}}", f"{stage.state:<10}", *filter(None, facts)]).rstrip())
        lines += [f"{'':<{width}}  because {reason}" for reason in stage.stale]
        lines += [f"{'':<{width}}  {stage.command}"] if stage.command is not None else []
    return "\n".join(lines)


def steps_told(stage: RunStatus) -> str:
    if stage.steps is None:
        return ""
    return f"{stage.steps:,} steps" if stage.step == stage.steps else f"{stage.step:,} of {stage.steps:,} steps"


def figures_told(figures: Mapping[str, Any]) -> str:
    numbers = {name: value for name, value in figures.items() if type(value) in (int, float)}
    return ", ".join(f"{name} {value:.4g}" for name, value in list(numbers.items())[:FIGURES_TOLD])
