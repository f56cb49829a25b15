"""Several language models, chains or a cascade on the same held-out dialogs, and replies that do not listen."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from usdm.asr.recogniser import RememberingRecogniser
from usdm.chain.locations import find_parts
from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.compare_results import figures_of
from usdm.cli.model import load_asr, load_pipeline
from usdm.cli.predict import fail_if_any, items, system
from usdm.cli.score import baselines, metrics
from usdm.cli.written import write_report
from usdm.config.model_schemas import ComparedModel
from usdm.evaluation import ChainSystem, compare_results, predict, score
from usdm.evaluation.held_out import HeldOutItem
from usdm.evaluation.predictions import System
from usdm.tokens.layout import LAYOUTS
from usdm.types import InputError

SELECTED = "model"  # name of the one that `model=` selects
CHAINS = [name for name in LAYOUTS if name not in ("typed", "transcribe")]  # those that hear and answer


def run(config: DictConfig) -> Figures:
    found = items(config)  # what is wrong with the input is told before a model is loaded
    given = baselines(config)
    if given.service_replies is not None:
        given.service_replies.check([item.dialog for item in found])
    entries = {SELECTED: ComparedModel(), **{str(name): entry_of(config, str(name)) for name in config.models}}
    chosen = metrics(config)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    judge = RememberingRecogniser(load_asr(config))
    failed = 0
    for name, entry in entries.items():
        ask(config, entry, found, folder / name, name)
        with bar(f"{name}: sounds judged") as progress:
            card = score(folder / name, judge, chosen, baselines=given, seed=config.seed, progress=progress)
        failed += card.failed
    comparison = compare_results({name: folder / name for name in entries}, seed=config.seed)
    write_report(comparison, folder, "models")
    print(f"replies that do not listen: {folder / SELECTED}/scorecard.md")
    figures = figures_of(comparison)
    fail_if_any(failed, f"{folder}/MODEL", figures)
    return figures


def ask(config: DictConfig, entry: ComparedModel, found: list[HeldOutItem], folder: Path, name: str) -> None:
    """One model's answers to all items; it is let go of afterwards."""
    pipeline = load_pipeline(config if entry.llm is None else with_llm(config, entry.llm))
    asked: System
    if entry.cascade:
        asked = system(config.cascade, pipeline, config)
    else:
        asked = ChainSystem(pipeline, entry.chain, config.seed, config.capacity, config.retry_errors)
    with bar(name) as progress:
        predict(asked, found, folder, overwrite=config.overwrite, progress=progress)


def entry_of(config: DictConfig, name: str) -> ComparedModel:
    """One entry of `models`. Raises InputError for a name that cannot be used, a chain or part that does not exist, or
    an entry that changes nothing."""
    given = config.models[name]
    if not isinstance(given, DictConfig):
        raise InputError(f"models.{name}={given}: say what is different, +models.{name}.llm=FOLDER for example")
    try:
        entry = OmegaConf.merge(OmegaConf.structured(ComparedModel), given)
    except OmegaConfBaseException as error:
        raise InputError(f"models.{name}: {error}") from error
    if name == SELECTED or Path(name).name != name:
        raise InputError(f"models.{name}: the name becomes a folder, and {SELECTED!r} is taken; choose another")
    if entry.llm is None and entry.chain is None and not entry.cascade:
        raise InputError(f"models.{name} is the selected model itself: add +models.{name}.llm, .chain or .cascade")
    if entry.chain is not None and entry.chain not in CHAINS:
        raise InputError(f"models.{name}.chain={entry.chain}: there are {', '.join(CHAINS)}")
    if entry.chain is not None and entry.cascade:
        raise InputError(f"models.{name}: a cascade has no chain; give one of them")
    if entry.llm is not None:
        find_parts({"llm": entry.llm})
        with_llm(config, entry.llm)
    compared: ComparedModel = OmegaConf.to_object(entry)  # type: ignore[assignment]
    return compared


def with_llm(config: DictConfig, llm: str) -> DictConfig:
    """The configuration with another language model in the selected model's place."""
    if "llm" not in config.model or isinstance(config.model.llm, DictConfig):
        raise InputError(f"models.*.llm={llm}: {config.model._target_} has no folder that it could replace")
    replaced: DictConfig = OmegaConf.masked_copy(config, [str(key) for key in config if key != "models"])
    with open_dict(replaced):
        replaced.model.llm = llm
    return replaced
