"""How far reference recordings move the voice of what is said, by an independent speaker encoder."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.audio import read_audio
from usdm.cli.evaluate import PACKAGED_SET, bar
from usdm.cli.model import load_model
from usdm.evaluation import PocketSphinxRecogniser, read_held_out
from usdm.evaluation.held_out import spread
from usdm.evaluation.ledger import write_atomically
from usdm.evaluation.speaker import SpeakerEncoder
from usdm.evaluation.voices import compare_voices
from usdm.types import InputError


def run(config: DictConfig) -> None:
    number = config["items"]  # `config.items` is a method
    if number is not None and number < 1:
        raise InputError(f"items={number}: give 1 or more, or null for all")
    dialogs = spread(read_held_out(config.held_out or PACKAGED_SET), number)
    references = {Path(path).stem: read_audio(path) for path in config.references}
    speakers = SpeakerEncoder()
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load_model(config)
    with bar("items") as progress:
        table = compare_voices(
            pipeline,
            [item.agent for item in dialogs],
            references,
            speakers,
            PocketSphinxRecogniser(),
            seed=config.seed,
            progress=progress,
        )
    write_atomically(folder / "voices.json", table.to_json())
    write_atomically(folder / "voices.md", table.to_markdown())
    print(table.to_markdown())
    print(f"written to {folder}")
