"""A small text tokenizer, learnt from the corpora's own text."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.config import arguments
from usdm.data.speech_corpus import read_speech_corpora
from usdm.training.tokenizer import save_tokenizer, train_tokenizer


def run(config: DictConfig) -> Figures:
    settings = arguments(config)
    corpora, output_dir = settings.pop("corpora"), settings.pop("output_dir")
    texts = [utterance.text for utterance in read_speech_corpora(corpora, "train") if utterance.text]
    tokenizer = train_tokenizer(texts, **settings)
    save_tokenizer(tokenizer, output_dir)
    print(f"{len(tokenizer)} pieces from {len(texts)} texts in {output_dir}")
    return {"pieces": len(tokenizer), "texts": len(texts)}
