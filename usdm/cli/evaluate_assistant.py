"""A benchmark of assistants (VoiceBench, VocalBench, URO-Bench): its questions asked, and the replies scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from data_prep.embedded_model.synthesisers import check_speakers, speak_as
from usdm.assistants.evaluation import Speaker, evaluate_assistant
from usdm.assistants.figures import numbers_of
from usdm.cli import Figures, WorkFailed
from usdm.cli.bars import bar
from usdm.cli.model import load_asr, load_pipeline
from usdm.cli.predict import system
from usdm.cli.written import write_report
from usdm.tokens.spoken_text import spoken_text
from usdm.types import InputError, Waveform


def run(config: DictConfig) -> Figures:
    # What is wrong with the input is told before the model is loaded.
    benchmark = instantiate(config.benchmark, _convert_="all")
    folder = Path(config.output_dir)
    reading = benchmark.read(folder / "questions")
    speaker = voice(config.speaker, config.seed) if config.speaker else None
    judge = instantiate(config.judge, _convert_="all")
    asr = load_asr(config)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(config)
    with bar("replies") as progress:
        scorecard = evaluate_assistant(
            system(config.system, pipeline, config),
            benchmark.name,
            reading,
            benchmark.derived,
            asr,
            judge,
            folder,
            speaker=speaker,
            seed=config.seed,
            overwrite=config.overwrite,
            progress=progress,
        )
    write_report(scorecard, folder, "scorecard")
    figures = dict(numbers_of(scorecard.figures))
    if scorecard.failed:
        failure = WorkFailed(f"{scorecard.failed} questions have no reply; {folder}/items.jsonl says why under `error`")
        failure.figures = figures
        raise failure
    return figures


def voice(name: str, seed: int) -> Speaker:
    """A synthesiser's voice. Raises InputError if it is not installed."""
    check_speakers([name])

    def speak(text: str) -> Waveform:
        words = spoken_text(text)
        if not words.strip(".? "):
            raise InputError(f"{text[:60]!r}: there is nothing in it that {name} can say")
        spoken = speak_as(name, words, np.random.default_rng(seed))
        return Waveform(torch.from_numpy(spoken.samples).float() / 32768, spoken.sample_rate)

    return Speaker(name, speak)
