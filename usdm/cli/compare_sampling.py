"""Steps, solver and guidance of the decoder against word errors, voice and time."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from usdm.audio import read_audio
from usdm.chain import DecoderSampling
from usdm.cli import Figures
from usdm.cli.bars import bar
from usdm.cli.evaluate import held_out_agent_turns
from usdm.cli.model import load_asr, load_pipeline
from usdm.evaluation.sampling_report import sampling_markdown, save_sampling_plot
from usdm.evaluation.sampling_table import compare_sampling
from usdm.metrics.speaker import SpeakerEncoder
from usdm.runs import write_text


def run(config: DictConfig) -> Figures:
    settings = [
        DecoderSampling(**{key: value for key, value in setting.items() if value is not None})
        for setting in config.settings
    ]
    utterances = held_out_agent_turns(config)
    speakers = SpeakerEncoder() if config.similarity else None
    reference = None if config.reference is None else read_audio(config.reference)
    asr = load_asr(config)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(config)
    with bar("sounds") as progress:
        table = compare_sampling(
            pipeline,
            utterances,
            settings,
            asr,
            speakers=speakers,
            reference=reference,
            seed=config.seed,
            progress=progress,
        )
    report = sampling_markdown(table)
    write_text(folder / "sampling.json", table.to_json())
    write_text(folder / "sampling.md", report)
    save_sampling_plot(table, folder / "sampling.png")
    print(report)
    print(f"written to {folder}")
    best = table.cheapest
    figures = {"WER": best.word_errors.rate, "evaluations": best.evaluations, "seconds": best.seconds}
    return figures if best.similarity is None else figures | {"similarity": best.similarity}
