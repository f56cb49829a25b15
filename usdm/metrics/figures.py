"""What a metric is: one function of a prediction and its reference, whose values are put together over items.

A metric is any callable `(prediction, reference) -> {figure: value}`. A value is a number, whose mean over items is the
figure; a `Ratio`, whose parts are summed over items first, as those of a word error rate; or None where the item could
not be judged, which is counted. A figure that does not apply to an item is left out. A metric may have the attributes
`about` (what a reader must know beside its figures: versions, normaliser) and `lower_is_better`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from usdm.metrics.intervals import ratio_gap, ratio_of


class Ratio(NamedTuple):
    """A share of something of which items have more or less: errors of words, say."""

    part: float
    whole: float


Value = float | Ratio | None


@dataclass(frozen=True)
class Reference:
    """One exchange of a set, as it should be."""

    id: str
    dialog: str  # items of one dialog are drawn together where intervals are made
    speaker: str  # of the question
    user_text: str
    agent_text: str
    user_seconds: float
    user_audio: Path | None = None
    agent_audio: Path | None = None
    user_recognised: str | None = None  # by the judge
    agent_recognised: str | None = None


@dataclass(frozen=True)
class Prediction:
    """What a system made of the question. None stands where it writes no such thing."""

    id: str
    user_text: str | None = None  # what it heard
    agent_text: str | None = None  # what it replies
    audio: Path | None = None  # its reply as sound; None where it said nothing
    seconds: float = 0.0  # of that sound
    recognised: str | None = None  # by the judge in that sound; "" of a reply without sound, None where it failed
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by stage
    truncated: Sequence[str] = ()  # stages that met their token limit
    error: str | None = None  # why there is no prediction


class Metric(Protocol):
    """See this module's docstring."""

    def __call__(self, prediction: Prediction, reference: Reference, /) -> Mapping[str, Value]: ...


@dataclass(frozen=True)
class ItemValues:
    """All that was judged of one item."""

    id: str
    cluster: str  # items of one cluster are drawn together
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Figure:
    """One figure over items, and what it rests on."""

    value: float | None  # None: nothing could be judged
    low: float | None  # 95 % interval
    high: float | None
    items: int  # judged
    unjudged: int  # of the items that have a prediction: could not be parsed, or not be heard
    failed: int  # items without a prediction
    about: str
    lower_is_better: bool


@dataclass(frozen=True)
class FigureGap:
    """How much higher a figure of one system is than another's on the items that both have."""

    gap: float
    low: float  # 95 % interval, the pairs drawn together
    high: float
    items: int
    left_out: int  # judged on one side alone
    lower_is_better: bool

    @property
    def is_worse(self) -> bool:
        """Beyond what other items might have shown."""
        return self.low > 0 if self.lower_is_better else self.high < 0


def compared_texts(prediction: Prediction, reference: Reference) -> Iterator[tuple[str, str, str | None]]:
    """What error rates are of, each with the text that it should be and what was heard; None: nothing was judged."""
    if prediction.user_text is not None:
        yield "transcript", reference.user_text, prediction.user_text
    if prediction.agent_text is not None:
        yield "spoken_reply", prediction.agent_text, prediction.recognised
    yield "user_recordings", reference.user_text, reference.user_recognised
    yield "agent_recordings", reference.agent_text, reference.agent_recognised


def about(metric: Metric) -> str:
    """What a metric says of itself, or else its full name."""
    own = _unwrapped(metric)
    name = getattr(own, "__qualname__", type(own).__qualname__)
    return str(getattr(own, "about", f"{own.__module__}.{name}"))


def lower_is_better(metric: Metric) -> bool:
    return bool(getattr(_unwrapped(metric), "lower_is_better", False))


def _unwrapped(metric: Metric) -> Any:
    """A function that a configuration names with `_partial_: true` comes in a wrapping."""
    return metric.func if isinstance(metric, partial) else metric


def figure_of(name: str, items: Sequence[ItemValues], failed: int, metric: Metric, seed: int) -> Figure:
    """The figure `name` over the items that have it."""
    having = [item for item in items if name in item.values]
    judged = [(item.cluster, ratio(value)) for item in having if (value := item.values[name]) is not None]
    value, low, high = ratio_of(judged, seed) or (None, None, None)
    return Figure(
        value,
        low,
        high,
        items=len(judged),
        unjudged=len(having) - len(judged),
        failed=failed,
        about=about(metric),
        lower_is_better=lower_is_better(metric),
    )


def gap_of(
    name: str, ours: Sequence[ItemValues], theirs: Sequence[ItemValues], lower_is_better: bool, seed: int
) -> FigureGap | None:
    """`ours` minus `theirs` on the items that both have been judged on; None if there are none."""
    mine, its = ({item.id: item for item in side if item.values.get(name) is not None} for side in (ours, theirs))
    pairs = [(mine[key], its[key]) for key in mine if key in its]
    sides = [[(item.cluster, ratio(item.values[name])) for item in side] for side in zip(*pairs, strict=True)]
    found = ratio_gap(sides[0], sides[1], seed) if pairs else None
    if found is None:
        return None
    return FigureGap(*found, len(pairs), len(mine) + len(its) - 2 * len(pairs), lower_is_better)


def ratio(value: Any) -> Ratio:
    """A value that is there, as a ratio: a number is one of a whole of 1."""
    return value if isinstance(value, Ratio) else Ratio(float(value), 1.0)
