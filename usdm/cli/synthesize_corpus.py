"""Dialog text spoken by synthesisers: many user voices, one agent voice, with word and phone times."""

from __future__ import annotations

from omegaconf import DictConfig

from data_prep.speech_corpus import synthesize_corpus
from usdm.cli.stage import Stage


def tell(turns: int, config: DictConfig) -> None:
    print(f"{turns} turns in {config.output_dir}")


run = Stage(synthesize_corpus, tell, lambda turns: {"turns": turns})
