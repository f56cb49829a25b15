"""Measured conversations as a table, as JSON, and one picture each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from usdm.conversation.timeline import Figures, Stretch, Timeline, percentile

COLOURS = {"turn": "#3b6fb6", "interruption": "#b63b3b", "backchannel": "#8a8a8a"}


@dataclass(frozen=True)
class Measurement:
    """Of the conversations that were held so many at a time."""

    concurrency: int
    conversations: int
    figures: Figures

    def as_dict(self) -> dict[str, object]:
        """With the percentiles that the table has."""
        summary = {
            "first_sound_p50": percentile(self.figures.first_sound, 50),
            "first_sound_p95": percentile(self.figures.first_sound, 95),
            "silence_p50": percentile(self.figures.silence, 50),
            "silence_p95": percentile(self.figures.silence, 95),
        }
        head = {"concurrency": self.concurrency, "conversations": self.conversations}
        return {**head, **summary, **asdict(self.figures)}


def measurement_table(measurements: Sequence[Measurement]) -> str:
    """Markdown, a column for each number of conversations at a time."""
    rows = [
        ("conversations", [str(each.conversations) for each in measurements]),
        ("end of speech to first sound, p50 / p95", [_seconds(each.figures.first_sound) for each in measurements]),
        ("interruption to silence, p50 / p95", [_seconds(each.figures.silence) for each in measurements]),
        ("false cut-offs", [_share(each.figures.cut_off, each.figures.turns) for each in measurements]),
        ("turns with a pause", [str(each.figures.turns_with_pause) for each in measurements]),
        ("missed turns", [_share(each.figures.missed, each.figures.turns) for each in measurements]),
        ("interruptions not heeded", [_share(e.figures.not_stopped, e.figures.interruptions) for e in measurements]),
        (
            'stopped by a "mhm"',
            [_share(e.figures.stopped_by_backchannel, e.figures.backchannels) for e in measurements],
        ),
        ("self-interruptions", [str(each.figures.self_interruptions) for each in measurements]),
        ("history errors", [str(each.figures.history_errors) for each in measurements]),
        ("seconds of talking over", [f"{each.figures.overlap:.1f}" for each in measurements]),
        ("error events", [str(each.figures.errors) for each in measurements]),
        ("the talker's own lag at worst", [f"{each.figures.lag:.2f} s" for each in measurements]),
    ]
    head = "| | " + " | ".join(f"{each.concurrency} at a time" for each in measurements) + " |"
    rule = "|" + "---|" * (len(measurements) + 1)
    return "\n".join([head, rule, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)])


def _seconds(values: Sequence[float]) -> str:
    if not values:
        return "none"
    return f"{percentile(values, 50):.2f} / {percentile(values, 95):.2f} s ({len(values)})"


def _share(count: int, total: int) -> str:
    return f"{count} of {total}"


def timeline_json(timeline: Timeline) -> str:
    """All but the sound."""
    said = {name: value for name, value in vars(timeline).items() if name != "sound"}
    return json.dumps(said, default=lambda value: asdict(value), indent=1) + "\n"


def draw_timeline(timeline: Timeline, path: Path) -> None:
    """Who spoke when: the person's speech, the reply as it was heard, and what the server said about turns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    end = max([1.0, *(act.whole.end for act in timeline.acts), *(reply.end for reply in timeline.replies)])
    figure = Figure(figsize=(min(24.0, 3 + 0.9 * end), 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for kind, colour in COLOURS.items():
        bars = [bar(stretch) for act in timeline.acts if act.kind == kind for stretch in act.speech]
        if bars:
            axis.broken_barh(bars, (1.1, 0.8), facecolors=colour, label=kind)
    for colour, cut in (("#3c9a5f", False), ("#e0a030", True)):
        bars = [bar(stretch) for reply in timeline.replies if reply.cut == cut for stretch in reply.sound]
        if bars:
            axis.broken_barh(bars, (0.1, 0.8), facecolors=colour, label="reply, cut off" if cut else "reply")
    for event in timeline.events:
        if event.type in MARKS:
            axis.plot([event.time], [1.0], MARKS[event.type], color="black", markersize=5)
    axis.set_yticks([0.5, 1.5], ["model", "person"])
    axis.set_ylim(0, 2)
    axis.set_xlim(0, end)
    axis.set_xlabel("seconds (▲ speech started, ▼ speech stopped, × record cut)", fontsize=8)
    axis.set_title(timeline.id, fontsize=9)
    axis.legend(fontsize=7, loc="upper right", ncols=5)
    figure.savefig(path, dpi=90)


MARKS: Mapping[str, str] = {
    "input_audio_buffer.speech_started": "^",
    "input_audio_buffer.speech_stopped": "v",
    "conversation.item.truncated": "x",
}


def bar(stretch: Stretch) -> tuple[float, float]:
    return stretch.start, stretch.seconds
