"""How often a reply has a certain phrase, such as one that says that the question was not understood."""

from __future__ import annotations

from collections.abc import Mapping

from usdm.metrics.figures import Prediction, Reference, Value
from usdm.metrics.text import says


class Refusals:
    """Share of replies with `phrase`: `refused`, and `refused_references` of those that the set has."""

    lower_is_better = True

    def __init__(self, phrase: str) -> None:
        self._phrase = phrase
        self.about = f'replies with "{phrase}"'

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        if prediction.agent_text is None:
            return {}
        return {
            "refused": float(says(prediction.agent_text, self._phrase)),
            "refused_references": float(says(reference.agent_text, self._phrase)),
        }
