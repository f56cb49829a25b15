"""Samples of Full-Duplex-Bench talked through with a server: its answers as files of the benchmark, and scores."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from usdm.audio import read_audio, write_audio
from usdm.conversation.client import converse
from usdm.conversation.full_duplex_bench import Sample, Score, Segment, Task, score, task_score, task_table
from usdm.conversation.script import WIRE_RATE, Act, Script
from usdm.conversation.timeline import Timeline
from usdm.runs import write_text

TEXT_EVENT = "response.output_audio_transcript.delta"


def talk_through(
    url: str, samples: Sequence[Sample], session: dict[str, Any], token: str | None, output_dir: Path
) -> str:
    """Each sample's input as it is, in real time, one after the other. Writes `output.wav` and `score.json` for each,
    and `scores.json`; -> a table in Markdown."""
    scores: dict[Task, list[Score]] = defaultdict(list)
    seconds: dict[Task, float] = defaultdict(float)
    for number, sample in enumerate(samples):
        act = Act("turn", read_audio(sample.input, WIRE_RATE).samples, after=0.0)
        script = Script(f"{number:04d}-{sample.folder.name}", (act,))
        timeline = asyncio.run(converse(url, script, session, token, number))
        segments = answer_segments(timeline, act)
        scores[sample.task].append(score(sample, segments))
        seconds[sample.task] += act.seconds
        place = output_dir / script.id
        place.mkdir(parents=True, exist_ok=True)
        write_audio(place / "output.wav", timeline.sound, WIRE_RATE)
        told = {"task": sample.task, **vars(scores[sample.task][-1])}
        write_text(place / "score.json", json.dumps(told, indent=1) + "\n")
    totals = {task: task_score(each, seconds[task]) for task, each in scores.items()}
    told_all = {task: vars(each) for task, each in totals.items()}
    write_text(output_dir / "scores.json", json.dumps(told_all, indent=1) + "\n")
    return task_table(totals)


def answer_segments(timeline: Timeline, act: Act) -> list[Segment]:
    """The answers that began while the input lasted, in seconds of the input."""
    words: dict[str, int] = defaultdict(int)
    for event in timeline.events:
        if event.type == TEXT_EVENT:
            words[event.data["item_id"]] += len(event.data["delta"].split())
    start = timeline.acts[0].whole.start
    return [
        Segment(stretch.moved(-start), words[reply.item])
        for reply in timeline.replies
        for stretch in reply.sound
        if start <= stretch.start < start + act.seconds
    ]
