"""Several language models or chains on the same held-out dialogs, and replies that do not listen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from usdm.chain.locations import find_parts
from usdm.cli import Figures, WorkFailed
from usdm.cli.evaluate import PACKAGED_SET, bar, rates, services, training_replies
from usdm.cli.model import load_asr, load_pipeline
from usdm.config.model_schemas import ComparedModel
from usdm.evaluation import read_held_out
from usdm.evaluation.models import MEANS, RATES, Contender, ModelRow, compare_models
from usdm.runs import write_text
from usdm.tokens.layout import LAYOUTS
from usdm.types import InputError

SELECTED = "model"  # name of the one that `model=` selects
CHAINS = [name for name in LAYOUTS if name not in ("typed", "transcribe")]  # those that hear and answer


def run(config: DictConfig) -> Figures:
    held_out = config.held_out or PACKAGED_SET
    read_held_out(held_out)  # what is wrong with the input is told before a model is loaded
    contenders = [Contender(SELECTED, partial(load_pipeline, config))]
    contenders += [contender(config, str(name)) for name in config.models]
    replies, service_replies = training_replies(config.training_corpus), services(config.dialogs_file)
    asr = load_asr(config)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with bar("items") as progress:
        table = compare_models(
            contenders,
            held_out,
            asr,
            folder,
            limit=config.limit,
            training_replies=replies,
            service_replies=service_replies,
            seed=config.seed,
            progress=progress,
        )
    write_text(folder / "models.json", table.to_json())
    write_text(folder / "models.md", table.to_markdown())
    print(table.to_markdown())
    print(f"written to {folder}")
    figures = figures_of(table.rows[: len(contenders)])  # without the baselines
    if table.failed:
        failure = WorkFailed(f"{table.failed} items failed; {folder}/MODEL/items.jsonl say why under `error`")
        failure.figures = figures
        raise failure
    return figures


def figures_of(rows: Sequence[ModelRow]) -> dict[str, float]:
    """How well each model hears, speaks and replies, the first model's first."""
    figures: dict[str, float] = {}
    for row in rows:
        figures |= rates({f"{row.name} {RATES[name]}": rate for name, rate in row.rates.items()})
        figures |= {f"{row.name} {MEANS[name]}": mean.mean for name, mean in row.means.items() if mean is not None}
    return figures


def contender(config: DictConfig, name: str) -> Contender:
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
    if entry.llm is None and entry.chain is None:
        raise InputError(f"models.{name} is the selected model itself: add +models.{name}.llm or +models.{name}.chain")
    if entry.chain is not None and entry.chain not in CHAINS:
        raise InputError(f"models.{name}.chain={entry.chain}: there are {', '.join(CHAINS)}")
    if entry.llm is None:
        return Contender(name, partial(load_pipeline, config), entry.chain)
    find_parts({"llm": entry.llm})
    return Contender(name, partial(load_pipeline, with_llm(config, entry.llm)), entry.chain)


def with_llm(config: DictConfig, llm: str) -> DictConfig:
    """The configuration with another language model in the selected model's place."""
    if "llm" not in config.model or isinstance(config.model.llm, DictConfig):
        raise InputError(f"models.*.llm={llm}: {config.model._target_} has no folder that it could replace")
    replaced: DictConfig = OmegaConf.masked_copy(config, [str(key) for key in config if key != "models"])
    with open_dict(replaced):
        replaced.model.llm = llm
    return replaced
