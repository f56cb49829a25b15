"""Steps, solver and guidance of the decoder against word errors, voice and time."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.audio import read_audio
from usdm.chain import DecoderSampling
from usdm.cli.evaluate import PACKAGED_SET, bar
from usdm.cli.model import load_model
from usdm.evaluation import PocketSphinxRecogniser, read_held_out
from usdm.evaluation.held_out import spread
from usdm.evaluation.ledger import write_atomically
from usdm.evaluation.sampling_report import sampling_markdown, save_sampling_plot
from usdm.evaluation.sampling_table import compare_sampling
from usdm.evaluation.speaker import SpeakerEncoder
from usdm.types import InputError


def run(config: DictConfig) -> None:
    settings = [
        DecoderSampling(**{key: value for key, value in setting.items() if value is not None})
        for setting in config.settings
    ]
    number = config["items"]  # `config.items` is a method
    if number is not None and number < 1:
        raise InputError(f"items={number}: give 1 or more, or null for all")
    dialogs = spread(read_held_out(config.held_out or PACKAGED_SET), number)
    speakers = SpeakerEncoder() if config.similarity else None
    reference = None if config.reference is None else read_audio(config.reference)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load_model(config)
    with bar("sounds") as progress:
        table = compare_sampling(
            pipeline,
            [item.agent for item in dialogs],
            settings,
            PocketSphinxRecogniser(),
            speakers=speakers,
            reference=reference,
            seed=config.seed,
            progress=progress,
        )
    report = sampling_markdown(table)
    write_atomically(folder / "sampling.json", table.to_json())
    write_atomically(folder / "sampling.md", report)
    save_sampling_plot(table, folder / "sampling.png")
    print(report)
    print(f"written to {folder}")
