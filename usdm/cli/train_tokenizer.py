"""A small text tokenizer, learnt from the corpora's own text."""

from __future__ import annotations

from omegaconf import DictConfig

from usdm.cli import Figures
from usdm.config import arguments
from usdm.data.speech_corpus import read_speech_corpora
from usdm.runs import claim
from usdm.training.tokenizer import TOKENIZER_FILES, save_tokenizer, train_tokenizer


def run(config: DictConfig) -> Figures:
    settings = arguments(config)
    corpora, output_dir, overwrite = (settings.pop(name) for name in ("corpora", "output_dir", "overwrite"))
    inputs = {"corpora": corpora}
    kind = type(settings["morphemes"]).__name__
    known = settings | {"morphemes": kind}
    if settings["morphemes"] is None:
        del known["morphemes"]  # such folders are told apart as they were before there were any
    with claim(output_dir, known, inputs, results=TOKENIZER_FILES, overwrite=overwrite) as run:
        texts = [utterance.text for utterance in read_speech_corpora(corpora, "train") if utterance.text]
        tokenizer = train_tokenizer(texts, **settings)
        save_tokenizer(tokenizer, output_dir)
        run.finish({"pieces": len(tokenizer), "texts": len(texts)})
    print(f"{len(tokenizer)} pieces from {len(texts)} texts in {output_dir}")
    return {"pieces": len(tokenizer), "texts": len(texts)}
