"""Stage times to look at."""

from __future__ import annotations

import html
from collections.abc import Mapping

STAGE_COLOURS = ("#6366f1", "#22c55e", "#f59e0b", "#ec4899", "#06b6d4", "#a855f7", "#84cc16")


def stage_bar(timings: Mapping[str, float], reply_seconds: float, first_sound: float | None = None) -> str:
    """HTML: how long each stage took, as a bar with a legend, and the whole beside the reply's own length.

    `first_sound`: seconds until it was heard.
    """
    total = sum(timings.values())
    coloured = [
        (name, seconds, STAGE_COLOURS[place % len(STAGE_COLOURS)])
        for place, (name, seconds) in enumerate(timings.items())
    ]
    bars = "".join(f'<div style="flex:{seconds:.4f};background:{colour}"></div>' for _, seconds, colour in coloured)
    names = "".join(
        f'<span><span class="dot" style="background:{colour}"></span>{html.escape(name)} {seconds:.2f} s</span>'
        for name, seconds, colour in coloured
    )
    spoken = f" for a reply of {reply_seconds:.1f} s" if reply_seconds else ""
    heard = "" if first_sound is None else f", heard from {first_sound:.2f} s on"
    return (
        f'<div class="stages">{bars}</div>'
        f'<div class="stage-names">{names}<span class="total">{total:.2f} s{spoken}{heard}</span></div>'
    )
