"""Does how it was said matter? The same words said in two ways, and how far the replies move."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from data_prep.deliveries import deliveries
from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.model import load_pipeline
from usdm.cli.predict import PACKAGED_SET
from usdm.cli.written import write_report
from usdm.evaluation import read_held_out
from usdm.evaluation.deliveries import compare_deliveries
from usdm.evaluation.held_out import spread


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
    write_report(table, folder, "deliveries")
    return {f"{each.way} {each.of} ({each.input})": each.moved.gap for each in table.movements}
