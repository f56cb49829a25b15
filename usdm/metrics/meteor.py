"""METEOR (Lavie and Agarwal 2007): how near a reply comes to its reference, word by word."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from nltk import data
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.translate.meteor_score import single_meteor_score

from usdm.metrics.figures import Prediction, Reference, Value
from usdm.metrics.text import scored_words
from usdm.types import InputError


class Meteor:
    """METEOR as package nltk has it: words match exactly, by their Porter stem, or as WordNet's synonyms (of the stem).

    Gives `reply_meteor` of the reply's text and `heard_reply_meteor` of what the judge hears in it, each 0..1.

    Args:
        nltk_data: folder with `corpora/wordnet`, as `python -m nltk.downloader -d FOLDER wordnet` makes it; None is
            where NLTK keeps its data.

    Raises:
        InputError: WordNet is not there.
    """

    def __init__(self, nltk_data: str | None = None) -> None:
        self._wordnet = _read_wordnet(nltk_data)
        self.about = f"METEOR, nltk {version('nltk')}, WordNet {self._wordnet.get_version()}"

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        return _values("meteor", prediction, reference, self._wordnet)


class MeteorExactStem:
    """METEOR with two of its three stages of matching: exact and by Porter stem. It needs no data.

    It reads a little lower than METEOR with synonyms, and compares only with itself. Gives `reply_meteor_exact_stem`
    and `heard_reply_meteor_exact_stem`.
    """

    about = f"METEOR without WordNet's synonyms, nltk {version('nltk')}"

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        return _values("meteor_exact_stem", prediction, reference, _NoSynonyms())


class _NoSynonyms:
    """Stands where NLTK wants WordNet: no word has a synonym."""

    def synsets(self, word: str) -> list:
        return []


def meteor_exact_stem(reference: str, hypothesis: str) -> float:
    """See `MeteorExactStem`."""
    return _meteor(reference, hypothesis, _NoSynonyms())


def _values(name: str, prediction: Prediction, reference: Reference, wordnet: Any) -> dict[str, Value]:
    values: dict[str, Value] = {}
    if prediction.agent_text is not None:
        values[f"reply_{name}"] = _meteor(reference.agent_text, prediction.agent_text, wordnet)
    if prediction.recognised is not None:
        values[f"heard_reply_{name}"] = _meteor(reference.agent_text, prediction.recognised, wordnet)
    return values


def _meteor(reference: str, hypothesis: str, wordnet: Any) -> float:
    return float(single_meteor_score(scored_words(reference), scored_words(hypothesis), wordnet=wordnet))


def _read_wordnet(nltk_data: str | None) -> WordNetCorpusReader:
    if nltk_data is not None and nltk_data not in data.path:
        data.path.insert(0, nltk_data)  # NLTK reads from nowhere else
    for place in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        with suppress(LookupError, OSError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other languages than English
            return WordNetCorpusReader(data.find(place), None)
    raise InputError(
        f"METEOR needs WordNet, which is not in {nltk_data or 'the folders of NLTK data'}: fetch it by "
        "`python -m nltk.downloader wordnet`, give a folder with corpora/wordnet by metric.meteor.nltk_data=FOLDER, "
        "or choose metric=meteor_exact_stem, which does without"
    )
