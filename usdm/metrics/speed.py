"""How long an answer takes, by the clock of the machine that made it."""

from __future__ import annotations

from collections.abc import Mapping

from usdm.metrics.figures import Prediction, Ratio, Reference, Value


class AnswerTime:
    """`answer_seconds` of all stages together, and `real_time_factor`, seconds of work per second of reply.

    Of predictions made one by one (capacity=1) on a quiet machine; in a batch an item's seconds are not its own.
    """

    about = "seconds of all stages, whole reply"
    lower_is_better = True

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        if not prediction.timings:
            return {}
        work = sum(prediction.timings.values())
        return {"answer_seconds": work, "real_time_factor": Ratio(work, prediction.seconds)}
