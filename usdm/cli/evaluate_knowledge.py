"""Knowledge by multiple choice: any task of lm-eval in text, or KMMLU's format asked as a turn, spoken or typed."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.evaluate_assistant import voice
from usdm.cli.model import load_pipeline
from usdm.knowledge.choices import choose
from usdm.knowledge.harness import HarnessTasks, ask_harness, harness_name
from usdm.knowledge.items import read_choices
from usdm.knowledge.scores import Answered, of_choices, of_harness, score_knowledge
from usdm.lm import in_transformers
from usdm.runs import digest, record
from usdm.tokens import read_tokenizer
from usdm.types import InputError


def run(config: DictConfig) -> Figures:
    for name in ("limit", "batch"):
        if config[name] is not None and config[name] < 1:
            raise InputError(f"{name}={config[name]}: give 1 question or more")
    tasks: HarnessTasks = instantiate(config.knowledge, _convert_="all")
    folder = Path(config.output_dir)
    ask = ask_in_text if config.hears is None else ask_as_turns
    answered, judge = ask(config, tasks, folder)
    facts = {"hears": "lm-eval's prompt" if config.hears is None else config.hears.value}
    scores = score_knowledge(answered, folder, average=config.average.value, judge=judge, facts=facts, seed=config.seed)
    figures = {name: figure.value for name, figure in scores.figures.items() if figure.value is not None}
    record(folder, OmegaConf.to_container(config, resolve=True, enum_to_str=True), {}, figures)  # type: ignore[arg-type]
    print(scores.to_markdown())
    print(f"written to {folder}")
    return figures


def ask_in_text(config: DictConfig, tasks: HarnessTasks, folder: Path) -> tuple[list[Answered], str]:
    pipeline = load_pipeline(config)
    items = ask_harness(
        in_transformers(pipeline.parts.llm),
        read_tokenizer(pipeline.folders["llm"]),
        tasks,
        folder / "lm_eval" / digest([pipeline.fingerprint, pipeline.precision["llm"]]),
        shots=config.shots,
        limit=config.limit,
        batch=config.batch,
        seed=config.seed,
    )
    return of_harness(items), harness_name()


def ask_as_turns(config: DictConfig, tasks: HarnessTasks, folder: Path) -> tuple[list[Answered], str]:
    if tasks.data_folder is None:
        raise InputError(f"hears={config.hears.value}: questions are asked as turns; give knowledge.data_folder")
    if config.shots:
        raise InputError(f"shots={config.shots}: a turn has no examples before it; leave shots, or hears")
    items = read_choices(tasks.data_folder, config.limit)
    speaker = voice(config.speaker, config.seed) if config.speaker else None
    pipeline = load_pipeline(config)
    with bar("questions") as progress:
        choices = choose(
            pipeline,
            items,
            folder / f"choices-{config.speaker}-{config.seed}.jsonl",
            hears=config.hears.value,
            chooses=config.chooses.value,
            speak=None if speaker is None else speaker.speak,
            batch=config.batch,
            progress=progress,
        )
    return of_choices(items, choices), f"likeliest of the {config.chooses.value} as a reply"
