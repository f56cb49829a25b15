"""Scores as Markdown tables that also read well on a console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from usdm.evaluation.intervals import WordErrorGap, WordErrorRate
from usdm.evaluation.scorecard import ReplyScores, Scorecard

NONE = "–"


def scorecard_table(scorecard: Scorecard) -> str:
    """The whole scorecard: figures, voices, and a line on what they rest on."""
    facts, speed = scorecard.facts, scorecard.speed
    baselines = scorecard.reply_baselines
    rows = [
        [
            "transcript WER",
            rate_cell(scorecard.transcript),
            f"{rate_cell(scorecard.user_recordings)} {facts.get('recogniser', 'recogniser')}",
            NONE,
        ],
        ["reply METEOR", _score(scorecard.reply, "meteor"), _beside(baselines, "meteor"), NONE],
        ["reply ROUGE-L", _score(scorecard.reply, "rouge_l"), _beside(baselines, "rouge_l"), NONE],
        [
            "spoken reply WER",
            rate_cell(scorecard.spoken_reply),
            f"{rate_cell(scorecard.spoken_reply_ceiling)} {facts.get('ceiling', 'ceiling')}",
            _gap(scorecard.spoken_reply_gap),
        ],
        [
            "units to sound WER",
            rate_cell(scorecard.resynthesis),
            f"{rate_cell(scorecard.agent_recordings)} recordings of the agent turns",
            _gap(scorecard.resynthesis_gap),
        ],
        ["real-time factor", _number(speed.real_time_factor), "1 = as long as the reply lasts", NONE],
        [
            "answer to a question of 2 to 4 s",
            _seconds(speed.answer_seconds),
            f"{_seconds(speed.answer_lasts)} that the reply lasts (medians)",
            NONE,
        ],
    ]
    parts = [markdown_table(["figure", "model", "compared with", "difference"], rows)]
    if scorecard.transcript_by_speaker:
        voices = [[name, rate_cell(rate), str(rate.items)] for name, rate in scorecard.transcript_by_speaker.items()]
        parts.append(markdown_table(["voice", "transcript WER", "items"], voices))
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in speed.seconds_by_stage.items())
    cut = ", ".join(f"{stage} {count}" for stage, count in scorecard.truncated.items()) or "none"
    parts.append(
        f"{scorecard.items} items of {facts.get('dialogs', '?')} dialogs, {scorecard.failed} failed; "
        f"cut off at the token limit: {cut}; mean stage times: {stages or NONE}. Intervals are 95 % (bootstrap over "
        "dialogs). METEOR counts exact and stem matches, no synonyms. Baselines' replies come from "
        f"{facts.get('baselines_from', '?')}. Model {facts.get('model', '?')}, seed {facts.get('seed', '?')}."
    )
    return "\n\n".join(parts) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to the same width."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [[name.ljust(width) for name, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rate_cell(rate: WordErrorRate | None) -> str:
    """Per cent and interval."""
    if rate is None:
        return NONE
    return f"{100 * rate.rate:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def _gap(gap: WordErrorGap | None) -> str:
    if gap is None:
        return NONE
    return f"{100 * gap.gap:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


def _score(scores: ReplyScores | None, name: str) -> str:
    return NONE if scores is None else f"{getattr(scores, name):.3f}"


def _beside(baselines: Mapping[str, ReplyScores], name: str) -> str:
    return ", ".join(f"{getattr(scores, name):.3f} {label}" for label, scores in baselines.items()) or NONE


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f} s"
