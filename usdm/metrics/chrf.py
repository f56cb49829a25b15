"""chrF (Popović 2015): how many character n-grams a reply has in common with its reference, whatever its words are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usdm.metrics.figures import Prediction, Reference, Value
from usdm.types import InputError


class ChrF:
    """chrF2 of each item by package sacrebleu (character 6-grams, no words), 0..100, and the mean of items.

    Gives `reply_chrf` of the reply's text and `heard_reply_chrf` of what the judge hears in it.

    Raises InputError if sacrebleu is not installed.
    """

    def __init__(self) -> None:
        try:
            import sacrebleu
        except ImportError as error:
            raise InputError("metric=chrf needs the package sacrebleu: pip install 'usdm[harness]'") from error
        self._chrf: Any = sacrebleu.CHRF()
        self.about = f"chrF2, mean of items, sacrebleu {sacrebleu.__version__}"

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        texts = {"reply_chrf": prediction.agent_text, "heard_reply_chrf": prediction.recognised}
        return {name: self._score(text, reference.agent_text) for name, text in texts.items() if text is not None}

    def _score(self, text: str, reference: str) -> float:
        return float(self._chrf.sentence_score(text, [reference]).score)
