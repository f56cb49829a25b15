"""Vocos as the decoder of EnCodec's units, from its published weights."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.data.unit_corpus import UnitSource
from usdm.unit_to_speech.vocos import convert_vocos
from usdm.units import load_unit_tokenizer


def run(config: DictConfig) -> Figures:
    model = convert_vocos(config.checkpoint, config.tokenizer, config.output_dir)
    tokenizer = load_unit_tokenizer(config.tokenizer)
    UnitSource(tokenizer.num_units, tokenizer.unit_rate, tokenizer.identity).save(config.output_dir)
    print(f"{model.num_units} units, {model.unit_rate:g} a second, to sound at {model.sample_rate} Hz")
    return {}
