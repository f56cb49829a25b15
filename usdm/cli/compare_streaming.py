"""What it costs to speak before the reply is whole: words, quality and seams of streamed sound."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.evaluate import held_out_agent_turns
from usdm.cli.model import load_asr, load_pipeline
from usdm.cli.written import write_report
from usdm.decoder import StreamingSettings
from usdm.evaluation.streaming import compare_streaming
from usdm.metrics.quality import Dnsmos


def run(config: DictConfig) -> Figures:
    given = [StreamingSettings(**setting) for setting in config.settings]
    utterances = held_out_agent_turns(config)
    quality = Dnsmos() if config.quality else None
    asr = load_asr(config)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(config)
    own = StreamingSettings.at_rate(pipeline.parts.units.unit_rate)
    with bar("items") as progress:
        table = compare_streaming(
            pipeline,
            utterances,
            list(dict.fromkeys([own, *given])),
            asr,
            quality=quality,
            seed=config.seed,
            progress=progress,
        )
    write_report(table, folder, "streaming")
    whole, streamed = table.rows[:2]
    figures = {
        "WER": streamed.word_errors.rate,
        "whole WER": whole.word_errors.rate,
        "quality": streamed.quality,
        "whole quality": whole.quality,
        "seam distance": streamed.seam_distance,
    }
    return {name: value for name, value in figures.items() if value is not None}
