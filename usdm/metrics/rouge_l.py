"""ROUGE-L (Lin 2004): how much of a reply and its reference is a common sequence of words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version

from rouge_score.rouge_scorer import RougeScorer

from usdm.metrics.figures import Prediction, Reference, Value
from usdm.metrics.text import scored_words


class RougeL:
    """The F-measure, without stemming (package rouge-score).

    Gives `reply_rouge_l` of the reply's text and `heard_reply_rouge_l` of what the judge hears in it, each 0..1.
    """

    about = f"ROUGE-L F-measure without stemming, rouge-score {version('rouge-score')}"

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        values: dict[str, Value] = {}
        if prediction.agent_text is not None:
            values["reply_rouge_l"] = rouge_l(reference.agent_text, prediction.agent_text)
        if prediction.recognised is not None:
            values["heard_reply_rouge_l"] = rouge_l(reference.agent_text, prediction.recognised)
        return values


class _ScoredWords:
    """`scored_words` as rouge-score wants a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return scored_words(text)


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=_ScoredWords())


def rouge_l(reference: str, hypothesis: str) -> float:
    """ROUGE-L F-measure in 0..1."""
    return float(_rouge().score(reference, hypothesis)["rougeL"].fmeasure)
