"""How good a spoken dialog model is on held-out dialogs, in a handful of figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from usdm.evaluation.baselines import ServiceReplies, baseline_replies
from usdm.evaluation.predictions import Prediction
from usdm.metrics.intervals import (
    Judged,
    Mean,
    WordErrorGap,
    WordErrorRate,
    mean_of,
    word_error_gap,
    word_error_rate,
)
from usdm.metrics.text import FalseAlarms, false_alarms, meteor, rouge_l, says, word_errors

SHORT_QUESTION = (2.0, 4.0)  # seconds: questions of about 3 s


@dataclass(frozen=True)
class ReplyScores:
    """Means over items of how near replies come to their references, each 0..1."""

    meteor: float
    rouge_l: float


@dataclass(frozen=True)
class Speed:
    """Stages' seconds, as the machine at hand took them."""

    real_time_factor: float | None  # seconds of work per second of reply
    seconds_by_stage: Mapping[str, float]  # means over items
    answer_seconds: float | None  # median, to a question of about 3 s
    answer_lasts: float | None  # median length of those replies in seconds


@dataclass(frozen=True)
class Scorecard:
    """None stands where a chain has no such stage, or where there was nothing to count."""

    items: int  # scored
    failed: int
    truncated: Mapping[str, int]  # items whose stage met its token limit
    transcript: WordErrorRate | None
    transcript_by_speaker: Mapping[str, WordErrorRate]
    transcript_false_alarms: FalseAlarms | None
    user_recordings: WordErrorRate | None  # the recogniser on what the model transcribed
    user_false_alarms: FalseAlarms | None
    reply: ReplyScores | None  # of its text
    reply_heard: ReplyScores | None  # of what the recogniser hears in the spoken reply
    cascade: ReplyScores | None  # of the text that the model replies to what the recogniser heard
    reply_baselines: Mapping[str, ReplyScores]  # what answers that have nothing to do with the question get
    refused: Mean | None  # share of replies that have the refusal phrase
    refused_references: Mean | None  # of the replies that they should be
    spoken_reply: WordErrorRate | None  # the recogniser on replies, against their texts
    spoken_reply_ceiling: WordErrorRate | None  # on a synthesiser
    spoken_reply_gap: WordErrorGap | None
    agent_recordings: WordErrorRate | None  # the recogniser on recordings of agent turns
    resynthesis: WordErrorRate | None  # on the same, turned into units and back into sound
    resynthesis_gap: WordErrorGap | None
    speed: Speed
    facts: Mapping[str, Any]  # model, seed, versions, and what else the figures depend on

    def figures(self) -> dict[str, float]:
        """The main numbers under flat names: rates and gaps as fractions, times in seconds."""
        found: dict[str, float | None] = {"items": self.items, "failed": self.failed}
        for name in (
            "transcript",
            "user_recordings",
            "spoken_reply",
            "spoken_reply_ceiling",
            "agent_recordings",
            "resynthesis",
        ):
            rate: WordErrorRate | None = getattr(self, name)
            found[f"{name}_wer"] = rate.rate if rate else None
        for name in ("spoken_reply_gap", "resynthesis_gap"):
            gap: WordErrorGap | None = getattr(self, name)
            found[name] = gap.gap if gap else None
        replies = {
            "reply": self.reply,
            "reply_heard": self.reply_heard,
            "cascade": self.cascade,
            **self.reply_baselines,
        }
        for name, scores in replies.items():
            found[f"{name.replace(' ', '_')}_meteor"] = scores.meteor if scores else None
            found[f"{name.replace(' ', '_')}_rouge_l"] = scores.rouge_l if scores else None
        for name in ("refused", "refused_references"):
            share: Mean | None = getattr(self, name)
            found[name] = share.mean if share else None
        for name in ("transcript_false_alarms", "user_false_alarms"):
            alarms: FalseAlarms | None = getattr(self, name)
            found[f"{name}_words"] = alarms.words if alarms else None
        found |= {
            "real_time_factor": self.speed.real_time_factor,
            "answer_seconds": self.speed.answer_seconds,
            "answer_lasts": self.speed.answer_lasts,
        }
        return {name: value for name, value in found.items() if value is not None}

    def to_json(self) -> str:
        """`figures` at the top, everything under `details`."""
        return json.dumps(self.figures() | {"details": asdict(self)}, indent=2, ensure_ascii=False) + "\n"


def summarise(
    predictions: Sequence[Prediction],
    training_replies: Sequence[str],
    seed: int,
    facts: Mapping[str, Any],
    *,
    service_replies: ServiceReplies | None = None,
    refusal_phrase: str | None = None,
) -> Scorecard:
    """The figures of a run; the same outcomes give the same scorecard. Arguments as for `evaluate`."""
    scored = [o for o in predictions if o.error is None]
    heard = [(o, _judge(o, o.user_text, o.transcript)) for o in scored if o.transcript is not None]
    replied = [(o, o.reply) for o in scored if o.reply is not None]
    spoken = [_judge(o, reply, o.reply_recognised) for o, reply in replied]
    ceiling = [_judge_ceiling(o, reply) for o, reply in replied]
    agent = [_judge(o, o.reference, o.agent_recognised) for o in scored]
    resynthesis = [_judge(o, o.reference, o.resynthesis_recognised) for o in scored]
    user = [_judge(o, o.user_text, o.user_recognised) for o in scored]
    references, dialogs = [o.reference for o in scored], [o.dialog for o in scored]
    baselines = baseline_replies(references, dialogs, training_replies, service_replies, seed)
    return Scorecard(
        items=len(scored),
        failed=len(predictions) - len(scored),
        truncated=dict(Counter(stage for o in scored for stage in o.truncated)),
        transcript=word_error_rate([judged for _, judged in heard], seed),
        transcript_by_speaker=_by_speaker(heard, seed),
        transcript_false_alarms=false_alarms([errors for _, (_, errors) in heard]),
        user_recordings=word_error_rate(user, seed),
        user_false_alarms=false_alarms([errors for _, errors in user]),
        reply=_reply_scores([(o.reference, reply) for o, reply in replied]),
        reply_heard=_reply_scores([(o.reference, o.reply_recognised) for o in scored]),
        cascade=_reply_scores([(o.reference, o.cascade_reply) for o in scored if o.cascade_reply is not None]),
        reply_baselines={
            name: scores
            for name, replies in baselines.items()
            if (scores := _reply_scores(list(zip(references, replies, strict=True)))) is not None
        },
        refused=_refused([(o.dialog, reply) for o, reply in replied], refusal_phrase, seed),
        refused_references=_refused([(o.dialog, o.reference) for o, _ in replied], refusal_phrase, seed),
        spoken_reply=word_error_rate(spoken, seed),
        spoken_reply_ceiling=word_error_rate(ceiling, seed),
        spoken_reply_gap=word_error_gap(spoken, ceiling, seed),
        agent_recordings=word_error_rate(agent, seed),
        resynthesis=word_error_rate(resynthesis, seed),
        resynthesis_gap=word_error_gap(resynthesis, agent, seed),
        speed=_speed(scored),
        facts=facts,
    )


def _judge(prediction: Prediction, text: str, heard: str | None) -> Judged:
    return prediction.dialog, word_errors(text, heard or "")


def _judge_ceiling(prediction: Prediction, reply: str) -> Judged:
    """The recogniser on a synthesiser: saying the reply if there is one to ask, else the reference."""
    if prediction.synthesis_recognised is not None:
        return _judge(prediction, reply, prediction.synthesis_recognised)
    return _judge(prediction, prediction.reference, prediction.agent_recognised)


def _by_speaker(heard: Sequence[tuple[Prediction, Judged]], seed: int) -> dict[str, WordErrorRate]:
    speakers = sorted({prediction.speaker for prediction, _ in heard})
    rates = {
        speaker: word_error_rate([judged for prediction, judged in heard if prediction.speaker == speaker], seed)
        for speaker in speakers
    }
    return {speaker: rate for speaker, rate in rates.items() if rate is not None}


def _reply_scores(pairs: Sequence[tuple[str, str]]) -> ReplyScores | None:
    """Means over (reference, reply)."""
    if not pairs:
        return None
    return ReplyScores(fmean(meteor(*pair) for pair in pairs), fmean(rouge_l(*pair) for pair in pairs))


def _refused(replies: Sequence[tuple[str, str]], phrase: str | None, seed: int) -> Mean | None:
    """Share of (dialog, reply) that have the phrase."""
    if phrase is None:
        return None
    return mean_of([float(says(reply, phrase)) for _, reply in replies], [dialog for dialog, _ in replies], seed)


def _speed(scored: Sequence[Prediction]) -> Speed:
    short = [o for o in scored if SHORT_QUESTION[0] <= o.question_seconds <= SHORT_QUESTION[1]]
    said = sum(o.reply_seconds for o in scored)
    stages = list(dict.fromkeys(stage for o in scored for stage in o.timings))
    return Speed(
        real_time_factor=sum(map(_work, scored)) / said if said else None,
        seconds_by_stage={stage: fmean(o.timings.get(stage, 0.0) for o in scored) for stage in stages},
        answer_seconds=median(map(_work, short)) if short else None,
        answer_lasts=median(o.reply_seconds for o in short) if short else None,
    )


def _work(prediction: Prediction) -> float:
    """Seconds that the stages took together."""
    return sum(prediction.timings.values())
