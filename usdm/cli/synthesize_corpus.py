"""Dialog text spoken by synthesisers: many user voices, one agent voice, with word and phone times."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.speech_corpus import synthesize_corpus
from usdm.config import arguments


def run(config: DictConfig) -> None:
    turns = synthesize_corpus(**arguments(config))
    print(f"{turns} turns in {config.output_dir}")
