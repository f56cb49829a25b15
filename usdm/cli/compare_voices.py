"""How far reference recordings move the voice of what is said, by an independent speaker encoder."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.audio import read_audio
from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.evaluate import held_out_agent_turns
from usdm.cli.model import load_asr, load_pipeline
from usdm.cli.written import write_report
from usdm.evaluation.voices import compare_voices
from usdm.metrics.speaker import SpeakerEncoder


def run(config: DictConfig) -> Figures:
    utterances = held_out_agent_turns(config)
    references = {Path(path).stem: read_audio(path) for path in config.references}
    speakers = SpeakerEncoder()
    asr = load_asr(config)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(config)
    with bar("items") as progress:
        table = compare_voices(
            pipeline,
            utterances,
            references,
            speakers,
            asr,
            seed=config.seed,
            progress=progress,
        )
    write_report(table, folder, "voices")
    found = {row.voice: row for row in table.rows if row.similarity is not None}
    figures = {f"{voice} similarity": row.similarity for voice, row in found.items()}
    figures |= {f"{voice} WER": row.word_errors.rate for voice, row in found.items()}
    return {name: value for name, value in figures.items() if value is not None}
