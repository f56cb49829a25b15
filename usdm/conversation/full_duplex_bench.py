"""Full-Duplex-Bench (arXiv 2503.04721, 2507.23159): its folders, and its timing rules as the papers describe them.

A folder for each sample, in any depth below the benchmark's: `input.wav` (or .flac), and one of `pause.json`,
`turn_taking.json`, `interrupt.json` or `backchannel.json`, each a list with `timestamp`: [start, end] in seconds. What
a system answers lies beside it: `output.wav`, as long as the conversation, and `output.json` with `chunks` of `text`
and `timestamp`, the words.

A segment of less than one second with fewer than two words is a backchannel; any other speech takes the turn over. The
latency is that of answers that take over. Unlike published scorers, an answer that begins before the person has
finished has its negative latency, counts as talking over, and is no success.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from usdm.conversation.timeline import Stretch
from usdm.types import InputError

Task = Literal["pause", "turn_taking", "interrupt", "backchannel"]
TASKS: tuple[Task, ...] = ("pause", "turn_taking", "interrupt", "backchannel")

BACKCHANNEL_SECONDS = 1.0  # shorter than this,
BACKCHANNEL_WORDS = 2  # and with fewer words than these
SEGMENT_GAP = 1.0  # seconds without a word, after which a new segment begins


@dataclass(frozen=True)
class Sample:
    folder: Path
    task: Task
    input: Path
    marked: Stretch  # the pause, the change of turns or the interruption


@dataclass(frozen=True)
class Segment:
    """Speech of the system without a gap."""

    stretch: Stretch
    words: int

    @property
    def is_backchannel(self) -> bool:
        return self.stretch.seconds < BACKCHANNEL_SECONDS and self.words < BACKCHANNEL_WORDS


@dataclass(frozen=True)
class Score:
    """Of one sample."""

    takeover: bool
    success: bool  # stayed silent in a pause; else took over, after the person had finished
    latency: float | None = None  # seconds; negative: it began before the person's end
    stop_latency: float | None = None  # seconds from the interruption's start to silence
    backchannels: int = 0


@dataclass(frozen=True)
class TaskScore:
    """Of all samples of a task."""

    samples: int
    takeover_rate: float
    success_rate: float
    talked_over: int  # answers that began too early
    mean_latency: float | None  # of the others
    mean_stop_latency: float | None
    backchannels_per_second: float


def find_samples(folder: str | Path) -> list[Sample]:
    """Raises InputError if there is none, or one without its sound."""
    found = []
    for task in TASKS:
        for path in sorted(Path(folder).rglob(f"{task}.json")):
            sounds = [path.parent / f"input{ending}" for ending in (".wav", ".flac")]
            sound = next((each for each in sounds if each.is_file()), None)
            if sound is None:
                raise InputError(f"{path.parent}: {path.name} without input.wav or input.flac; copy the sample again")
            found.append(Sample(path.parent, task, sound, _marked(path)))
    if not found:
        raise InputError(f"{folder}: no folder with {', '.join(f'{task}.json' for task in TASKS)} in it")
    return found


def _marked(path: Path) -> Stretch:
    try:
        start, end = json.loads(path.read_text(encoding="utf-8"))[-1]["timestamp"]
        return Stretch(float(start), float(end))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: a list of objects with a timestamp [start, end] is needed ({error!r})") from error


def read_output(path: Path) -> list[Segment]:
    """The segments of an `output.json`. Raises InputError if it is no such file."""
    try:
        chunks = json.loads(path.read_text(encoding="utf-8"))["chunks"]
        words = [Stretch(float(start), float(end)) for start, end in (each["timestamp"] for each in chunks)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: an object with chunks of text and timestamp is needed ({error!r})") from error
    return list(_segments(words))


def _segments(words: Sequence[Stretch]) -> Iterator[Segment]:
    segment: Segment | None = None
    for word in words:
        if segment is not None and word.start - segment.stretch.end < SEGMENT_GAP:
            end = max(segment.stretch.end, word.end)
            segment = Segment(Stretch(segment.stretch.start, end), segment.words + 1)
            continue
        if segment is not None:
            yield segment
        segment = Segment(word, 1)
    if segment is not None:
        yield segment


def score(sample: Sample, output: Sequence[Segment]) -> Score:
    taking = [each.stretch for each in output if not each.is_backchannel]
    if sample.task in ("pause", "backchannel"):
        return Score(bool(taking), not taking, backchannels=len(output) - len(taking))
    if sample.task == "turn_taking":
        latency = taking[0].start - sample.marked.start if taking else None
        return Score(bool(taking), latency is not None and latency >= 0, latency)
    before = [each for each in taking if each.start < sample.marked.start < each.end]
    stop = before[0].end - sample.marked.start if before else None
    after = [each for each in taking if each.start >= sample.marked.start]
    latency = after[0].start - sample.marked.end if after else None
    return Score(bool(after), latency is not None and latency >= 0, latency, stop)


def task_score(scores: Sequence[Score], seconds: float) -> TaskScore:
    """`seconds`: of the inputs together."""
    latencies = [each.latency for each in scores if each.latency is not None]
    stops = [each.stop_latency for each in scores if each.stop_latency is not None]
    return TaskScore(
        len(scores),
        sum(each.takeover for each in scores) / len(scores),
        sum(each.success for each in scores) / len(scores),
        sum(latency < 0 for latency in latencies),
        _mean([latency for latency in latencies if latency >= 0]),
        _mean(stops),
        sum(each.backchannels for each in scores) / seconds,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def task_table(scores: Mapping[Task, TaskScore]) -> str:
    """Markdown."""
    rows = ["| task | samples | takeover rate | success | talked over | latency | stop latency |", "|---|" + "---|" * 6]
    for task, each in scores.items():
        latency, stop = (_told(value) for value in (each.mean_latency, each.mean_stop_latency))
        rates = f"{each.takeover_rate:.3f} | {each.success_rate:.3f} | {each.talked_over}"
        rows.append(f"| {task} | {each.samples} | {rates} | {latency} | {stop} |")
    return "\n".join(rows)


def _told(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds:.2f} s"
