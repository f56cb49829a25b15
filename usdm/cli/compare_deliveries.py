"""Does how it was said matter? The same words said in two ways, and how far the replies move."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from data_prep.deliveries import deliveries
from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.model import load_pipeline
from usdm.cli.predict import PACKAGED_SET
from usdm.evaluation import read_held_out
from usdm.evaluation.deliveries import compare_deliveries
from usdm.evaluation.held_out import spread
from usdm.runs import write_text


def run(config: DictConfig) -> Figures:
    items = spread(read_held_out(config.held_out or PACKAGED_SET), config["items"])  # `config.items` is a method
    pairs = deliveries([item.user for item in items], list(config.ways), config.speaker)
    folder = Path(config.output_dir)
    pipeline = load_pipeline(config)
    with bar("replies") as progress:
        table = compare_deliveries(
            pipeline,
            pairs,
            folder,
            samples=config.samples,
            temperature=config.temperature,
            capacity=config.capacity,
            seed=config.seed,
            overwrite=config.overwrite,
            progress=progress,
        )
    report = table.to_markdown()
    write_text(folder / "deliveries.json", json.dumps(table.to_json(), indent=2) + "\n")
    write_text(folder / "deliveries.md", report)
    print(report)
    print(f"written to {folder}")
    return {f"{each.way} {each.of} ({each.input})": each.moved.gap for each in table.movements}
