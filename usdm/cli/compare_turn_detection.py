"""The turn head against silence alone: how often each cuts in during a pause, and how long it waits."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from usdm.cli.bars import bar
from usdm.cli.model import load_pipeline
from usdm.evaluation.turn_detection_report import draw_turn_curves, turn_json, turn_markdown, turn_table
from usdm.evaluation.turn_sources import read_call, read_turns
from usdm.runs import write_text
from usdm.turns import TurnHeadRule, probability_of_end
from usdm.types import InputError


def run(config: DictConfig) -> None:
    rule = instantiate(config.turn_detection)
    if not isinstance(rule, TurnHeadRule):
        raise InputError("turn_detection: the head is what is compared with silence; choose turn_detection=turn_head")
    lengths = instantiate(config.lengths)
    sets = {
        Path(corpus).name: read_turns(corpus, config.split, config.turns, config.pauses, lengths, config.seed)
        for corpus in config.corpora
    }
    sets |= {Path(call).name: read_call(call) for call in config.calls}
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(config)
    detector = rule.detector(pipeline.parts.units, pipeline.folders["llm"].parent)
    over = partial(probability_of_end, detector.head, detector.extractor)
    tables = []
    for name, turns in sets.items():
        with bar(name) as progress:
            tables.append(
                turn_table(
                    name,
                    turns,
                    over,
                    rule,
                    list(config.thresholds),
                    list(config.long_ms),
                    list(config.silence_ms),
                    config.seed,
                    progress,
                )
            )
    facts = {"model": pipeline.fingerprint, "seed": config.seed, "short_ms": rule.short_ms}
    write_text(folder / "turn_detection.json", turn_json(tables, facts))
    write_text(folder / "turn_detection.md", turn_markdown(tables))
    draw_turn_curves(tables, folder / "turn_detection.png")
    print(turn_markdown(tables))
    print(f"written to {folder}")
