"""Whether the echo of its replies interrupts them, at many levels, delays and rooms, and speech over them does."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from usdm.audio import read_audio, resample
from usdm.chain import SpokenDialogPipeline
from usdm.cli.model import load_pipeline
from usdm.cli.written import write_report
from usdm.serve.echo_check import RATE, Echo, check_echo
from usdm.types import InputError

QUESTION = Path(__file__).resolve().parents[1] / "assets" / "question.wav"


def run(config: DictConfig) -> None:
    detection = instantiate(config.turn_detection)
    speech = read_audio(config.speech or QUESTION, RATE).samples
    echoes = [Echo(*way) for way in product(config.levels, config.delays, config.rooms)]
    if not echoes or not config.replies:
        raise InputError("replies, levels, delays and rooms: give at least one of each")
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(config)
    units, bundle = pipeline.parts.units, pipeline.folders["llm"].parent
    report = check_echo(
        [_spoken(pipeline, text) for text in config.replies],
        speech,
        echoes,
        lambda: detection.detector(units, bundle),
        config.speech_levels,
        config.seed,
    )
    write_report(report, folder, "echo")


def _spoken(pipeline: SpokenDialogPipeline, text: str) -> torch.Tensor:
    """(t,) of the model's own voice. Raises InputError for words that it does not speak."""
    reply = pipeline.respond(text=text, reply=text)
    if reply.waveform is None:
        raise InputError(f"replies: the model says nothing for {text!r}; give other words")
    return resample(reply.waveform, reply.sample_rate, RATE)
