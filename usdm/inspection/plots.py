"""Plots of an inspection as SVG for a page: their ink is the page's own text colour, on paper and in the dark."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from usdm.inspection.statistics import Distribution

BARS = "#0f766e"
INK = "#010203"  # in the SVG it becomes currentColor
LEAST_SHOWN = 0.5  # occurrences: a logarithmic axis has no zero, and once must be seen
SIZE = (4.4, 2.7)  # inches
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "usdm",  # the same figures give the same page
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
}


def histogram(found: Distribution, label: str, counted: str = "utterances") -> str:
    """`label` has the unit; a dashed line marks the median."""

    def draw(axes: Axes) -> None:
        axes.stairs(found.counts, found.edges, fill=True, color=BARS)
        axes.axvline(found.median, color=INK, linestyle="--", linewidth=0.8)
        axes.set_xlabel(label)
        axes.set_ylabel(counted)

    return _svg(draw)


def speaker_hours(hours: Sequence[float]) -> str:
    """The most heard first; minutes where the corpus is small."""
    factor, unit = (60, "minutes") if max(hours) < 1 else (1, "hours")

    def draw(axes: Axes) -> None:
        axes.stairs(np.asarray(hours) * factor, np.arange(len(hours) + 1) + 0.5, fill=True, color=BARS)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("speakers, the most heard first")
        axes.set_ylabel(unit)

    return _svg(draw)


def silence(shares: Mapping[str, float]) -> str:
    """Where in an utterance the silence lies."""
    places = {"leading": "before", "inner": "pauses", "trailing": "after"}

    def draw(axes: Axes) -> None:
        axes.barh(list(places.values()), [100 * shares[place] for place in places], color=BARS)
        axes.invert_yaxis()
        axes.set_xlabel("silence, % of all time")
        axes.set_ylabel("place in the utterance")

    return _svg(draw)


def unit_frequencies(counts: Sequence[int]) -> str:
    """All units, the most frequent first, beside what even usage would be."""
    ranked = np.sort(np.asarray(counts))[::-1]

    def draw(axes: Axes) -> None:
        edges = np.arange(len(ranked) + 1) + 0.5
        axes.set_yscale("log")
        axes.stairs(np.maximum(ranked, LEAST_SHOWN), edges, baseline=LEAST_SHOWN, fill=True, color=BARS, label="found")
        axes.axhline(ranked.mean(), color=INK, linestyle="--", linewidth=0.8, label="if all were used alike")
        axes.set_ylim(bottom=LEAST_SHOWN)
        axes.set_xlabel("units, the most frequent first")
        axes.set_ylabel("occurrences")
        axes.legend(fontsize=8, frameon=False)

    return _svg(draw)


def _svg(draw: Callable[[Axes], None]) -> str:
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        draw(axes)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
