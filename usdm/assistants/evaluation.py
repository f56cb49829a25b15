"""Asks a system the questions of a benchmark, and scores what it replies: as text, and as a recogniser hears it."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usdm.asr.recogniser import Recogniser
from usdm.assistants.figures import AssistantScorecard, Count, Figure
from usdm.assistants.instructions import sentence_splitter
from usdm.assistants.items import Item, Judged, Reading, Score
from usdm.assistants.judge import Judge
from usdm.assistants.rubrics import RUBRICS
from usdm.assistants.rules import RULES
from usdm.audio import write_audio
from usdm.chain.requests import SynthesisRequest
from usdm.evaluation.judging import recognise
from usdm.evaluation.predictions import System, read_predictions
from usdm.evaluation.result_lines import Progress
from usdm.metrics.facts import surroundings
from usdm.metrics.figures import Prediction
from usdm.metrics.intervals import ratio_of
from usdm.metrics.text import word_errors
from usdm.runs import JsonLines, KeptAnswers, digest
from usdm.types import InputError, Waveform

logger = logging.getLogger(__name__)

TEXT, SPEECH = "text", "speech"  # channels of a reply
RECORDED, SPOKEN, TYPED = "recorded", "spoken", "typed"  # ways to ask
RTF, CLARITY = "real-time factor", "WER of the spoken reply"
COMMON = {RTF: "clock", CLARITY: "recogniser"}  # figures of every benchmark, and who gives them
REPLIES, VERDICTS, ITEMS = "replies", "verdicts.jsonl", "items.jsonl"


@dataclass(frozen=True)
class Speaker:
    """Says questions of which there is only text."""

    name: str
    speak: Callable[[str], Waveform]  # raises InputError for what it cannot say


@dataclass(frozen=True)
class Reply:
    """What became of one question."""

    item: Item
    asked: str  # how
    text: str | None = None  # None in chains that write no text
    heard: str | None = None  # by the recogniser; None where it failed
    seconds: float = 0.0  # of its sound
    work_seconds: float = 0.0  # that it took
    error: str | None = None  # why there is none

    def channels(self) -> Iterator[tuple[str, str]]:
        if self.text is not None:
            yield TEXT, self.text
        if self.heard is not None:
            yield SPEECH, self.heard


def evaluate_assistant(
    system: System,
    benchmark: str,
    reading: Reading,
    derive: Callable[[Sequence[Judged]], list[Judged]],
    asr: Recogniser,
    judge: Judge,
    output_dir: str | Path,
    *,
    speaker: Speaker | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> AssistantScorecard:
    """Replies go to `replies/`, one line an item with its scores to `items.jsonl`.

    The same call again goes on where the last one ended: replies, what was heard and verdicts are kept.

    Args:
        speaker: asks what was not recorded; None types it.
        derive: scores that follow from several items, by the benchmark.
        overwrite: delete replies of another system or settings.

    Raises:
        InputError: the folder has replies of another model or to other questions, or the judge cannot be asked.
    """
    folder = Path(output_dir)
    asked, unspoken = _requests(reading.items, speaker, folder / "questions")
    replies_dir = folder / REPLIES
    replies_dir.mkdir(parents=True, exist_ok=True)
    requests = [request for request, _ in asked.values()]
    system.predict(requests, replies_dir, overwrite=overwrite, progress=progress)
    predictions, _ = recognise(replies_dir, read_predictions(replies_dir), {}, asr, progress)
    replies = [_reply(item, asked, unspoken, predictions) for item in reading.items]
    with KeptAnswers(folder / VERDICTS) as kept:
        judged, unjudged = _score(replies, judge, kept)
    scores = [*judged, *derive(judged), *_clarity_and_latency(replies)]
    _write_items(folder / ITEMS, replies, judged)
    return AssistantScorecard(
        benchmark=benchmark,
        figures=tuple(_figures(scores, unjudged, judge, seed)),
        counts=_counts(replies),
        absent=_absent(reading.items, judge),
        left_out=reading.left_out,
        facts=_facts(replies, speaker, asr, judge, seed),
    )


def _requests(
    items: Sequence[Item], speaker: Speaker | None, folder: Path
) -> tuple[dict[str, tuple[SynthesisRequest, str]], dict[str, str]]:
    """Requests with the way they ask, and why other questions cannot be spoken; both by the item's id."""
    asked: dict[str, tuple[SynthesisRequest, str]] = {}
    unspoken: dict[str, str] = {}
    for item in items:
        history = item.history
        if item.audio is not None:
            asked[item.id] = SynthesisRequest(item.id, audio=item.audio.resolve(), history=history), RECORDED
        elif speaker is None:
            asked[item.id] = SynthesisRequest(item.id, text=item.question, history=history), TYPED
        else:
            try:
                audio = _spoken(item, speaker, folder).resolve()
                asked[item.id] = SynthesisRequest(item.id, audio=audio, history=history), SPOKEN
            except InputError as error:
                unspoken[item.id] = str(error)
    if not asked:
        raise InputError("none of the questions can be asked: " + next(iter(unspoken.values()), "there is none"))
    return asked, unspoken


def _spoken(item: Item, speaker: Speaker, folder: Path) -> Path:
    """Spoken once: some synthesisers never sound quite the same twice."""
    path = folder / f"{item.id}-{digest([speaker.name, item.question])[:8]}.wav"
    if not path.is_file():
        sound = speaker.speak(item.question)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, sound.samples, sound.sample_rate)
    return path


def _reply(
    item: Item,
    asked: Mapping[str, tuple[SynthesisRequest, str]],
    unspoken: Mapping[str, str],
    predictions: Mapping[str, Prediction],
) -> Reply:
    if item.id in unspoken:
        return Reply(item, SPOKEN, error=unspoken[item.id])
    found, way = predictions[item.id], asked[item.id][1]
    if found.error is not None:
        return Reply(item, way, error=found.error)
    work = sum(found.timings.values())
    return Reply(item, way, found.agent_text, found.recognised, found.seconds, work)


def _score(replies: Sequence[Reply], judge: Judge, kept: KeptAnswers) -> tuple[list[Judged], Counter[tuple[str, str]]]:
    """Scores by item and channel; and how many verdicts could not be read, by subset and channel."""
    work = [
        (reply.item, channel, said) for reply in replies if reply.error is None for channel, said in reply.channels()
    ]

    def one(item: Item, channel: str, said: str) -> Judged | None:
        if item.scoring in RULES:
            return Judged(item, channel, said, RULES[item.scoring](item, said))
        rubric = RUBRICS[item.scoring]
        if not said.strip():
            return Judged(item, channel, said, {rubric.figure: Score(rubric.nothing, parsed=False)})
        prompt = rubric.ask(item, said)
        verdict = kept.get([judge.name, asdict(prompt)], lambda: judge(prompt))
        if (score := rubric.score(verdict)) is None:
            logger.warning("%s: the judge's verdict cannot be read: %r", item.id, verdict[:80])
            return None
        return Judged(item, channel, said, {rubric.figure: score})

    wanted = [each for each in work if each[0].scoring in RULES or judge.name is not None]
    with ThreadPoolExecutor(judge.at_once) as pool:
        judged = list(pool.map(lambda each: one(*each), wanted))
    lost = zip(wanted, judged, strict=True)
    unjudged = Counter((item.subset, channel) for (item, channel, _), each in lost if each is None)
    return [each for each in judged if each is not None], unjudged


def _clarity_and_latency(replies: Sequence[Reply]) -> Iterator[Judged]:
    """Word errors of the sound against the written reply, and seconds of work for a second of sound."""
    for reply in replies:
        if reply.error is not None or reply.heard is None or not reply.seconds:
            continue
        scores = {RTF: Score(reply.work_seconds, reply.seconds)}
        if reply.text is not None:
            errors = word_errors(reply.text, reply.heard)
            scores[CLARITY] = Score(float(errors.errors), float(errors.words))
        yield Judged(reply.item, SPEECH, reply.heard, scores)


def _figures(
    judged: Sequence[Judged], unjudged: Mapping[tuple[str, str], int], judge: Judge, seed: int
) -> Iterator[Figure]:
    groups: defaultdict[tuple[str, str, str, str], list[Score]] = defaultdict(list)
    for each in judged:
        for name, score in each.scores.items():
            groups[each.item.subset, name, each.channel, _scored_by(each.item, name, judge)].append(score)
    for (subset, name, channel, scored_by), scores in groups.items():
        items = [(str(number), (score.value, score.weight)) for number, score in enumerate(scores)]
        found = ratio_of(items, seed)
        if found is not None:
            unparsed = sum(not score.parsed for score in scores)
            by_judge = scored_by == judge.name
            lost = unjudged.get((subset, channel), 0) if by_judge else 0
            yield Figure(subset, name, channel, scored_by, *found, len(scores), unparsed, lost)


def _scored_by(item: Item, figure: str, judge: Judge) -> str:
    if figure in COMMON:
        return COMMON[figure]
    return f"rule {item.scoring.replace('_', ' ')}" if item.scoring in RULES else str(judge.name)


def _counts(replies: Sequence[Reply]) -> dict[str, Count]:
    subsets: defaultdict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        subsets[reply.item.subset].append(reply)
    return {
        subset: Count(
            asked=len(own),
            failed=sum(reply.error is not None for reply in own),
            empty=sum(reply.error is None and not (reply.text or reply.heard or "").strip() for reply in own),
        )
        for subset, own in subsets.items()
    }


def _absent(items: Sequence[Item], judge: Judge) -> tuple[str, ...]:
    if judge.name is not None:
        return ()
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for item in items:
        if item.scoring in RUBRICS:
            counts[item.subset, RUBRICS[item.scoring].figure] += 1
    return tuple(
        f"{subset}, {figure}: {count} items want a judge, and judge=none" for (subset, figure), count in counts.items()
    )


def _facts(
    replies: Sequence[Reply], speaker: Speaker | None, asr: Recogniser, judge: Judge, seed: int
) -> dict[str, Any]:
    ways = {way: sum(reply.asked == way for reply in replies) for way in (RECORDED, SPOKEN, TYPED)}
    facts: dict[str, Any] = {
        "asked": ", ".join(f"{count} {way}" for way, count in ways.items() if count),
        "speaker": None if speaker is None else speaker.name,
        "recogniser": asr.name,
        "judge": judge.name or "none",
        "normaliser": "Whisper's for English",
        "seed": seed,
    }
    if any(reply.item.scoring == "instruction_following" for reply in replies):
        facts["sentences"] = sentence_splitter()
    return facts | surroundings()


def _write_items(path: Path, replies: Sequence[Reply], judged: Sequence[Judged]) -> None:
    scores: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for each in judged:
        scores[each.item.id][each.channel] = {name: asdict(score) for name, score in each.scores.items()}
    rows = []
    for reply in replies:
        item = {key: getattr(reply.item, key) for key in ("id", "subset", "question", "scoring", "reference")}
        own = {key: value for key, value in asdict(reply).items() if key != "item"}
        rows.append(item | own | {"scores": scores[reply.item.id]})
    with JsonLines(path) as lines:
        lines.replace(rows)
