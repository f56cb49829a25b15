"""The scorecard as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping

from usdm.evaluation.scorecard import ReplyScores, Scorecard
from usdm.metrics.intervals import Mean
from usdm.metrics.table import NONE, false_alarms_cell, gap_cell, markdown_table, rate_cell


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
        *_silence_rows(scorecard, facts.get("recogniser", "recogniser")),
        ["reply METEOR", _score(scorecard.reply, "meteor"), _beside(baselines, "meteor"), NONE],
        ["reply ROUGE-L", _score(scorecard.reply, "rouge_l"), _beside(baselines, "rouge_l"), NONE],
        *_cascade_rows(scorecard, facts.get("recogniser", "recogniser")),
        ["reply as it is heard, METEOR", _score(scorecard.reply_heard, "meteor"), NONE, NONE],
        ["reply as it is heard, ROUGE-L", _score(scorecard.reply_heard, "rouge_l"), NONE, NONE],
        *_refusal_rows(scorecard, facts.get("refusal_phrase")),
        [
            "spoken reply WER",
            rate_cell(scorecard.spoken_reply),
            f"{rate_cell(scorecard.spoken_reply_ceiling)} {facts.get('ceiling', 'ceiling')}",
            gap_cell(scorecard.spoken_reply_gap),
        ],
        [
            "units to sound WER",
            rate_cell(scorecard.resynthesis),
            f"{rate_cell(scorecard.agent_recordings)} recordings of the agent turns",
            gap_cell(scorecard.resynthesis_gap),
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
        voices = [
            [name, rate_cell(rate), str(rate.counts.words), str(rate.items)]
            for name, rate in scorecard.transcript_by_speaker.items()
        ]
        parts.append(markdown_table(["voice", "transcript WER", "words", "items"], voices))
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in speed.seconds_by_stage.items())
    cut = ", ".join(f"{stage} {count}" for stage, count in scorecard.truncated.items()) or "none"
    parts.append(
        f"{scorecard.items} items of {facts.get('dialogs', '?')} dialogs, {scorecard.failed} failed; "
        f"cut off at the token limit: {cut}; mean stage times: {stages or NONE}. Intervals are 95 % (bootstrap over "
        "dialogs). METEOR counts exact and stem matches, no synonyms. Baselines' replies come from "
        f"{facts.get('baselines_from', '?')}. Model {facts.get('model', '?')}, seed {facts.get('seed', '?')}."
    )
    return "\n\n".join(parts) + "\n"


def _silence_rows(scorecard: Scorecard, recogniser: str) -> list[list[str]]:
    """What is heard where nothing is said; no row where every turn has words."""
    model, other = scorecard.transcript_false_alarms, scorecard.user_false_alarms
    if other is None:
        return []
    return [["heard where nothing is said", false_alarms_cell(model), f"{false_alarms_cell(other)} {recogniser}", NONE]]


def _cascade_rows(scorecard: Scorecard, recogniser: str) -> list[list[str]]:
    """The same model behind another's ears; no row where the chain has no texts."""
    if scorecard.cascade is None:
        return []
    return [
        [f"reply {name}", _score(scorecard.reply, key), f"{_score(scorecard.cascade, key)} behind {recogniser}", NONE]
        for name, key in (("METEOR", "meteor"), ("ROUGE-L", "rouge_l"))
    ]


def _refusal_rows(scorecard: Scorecard, phrase: str | None) -> list[list[str]]:
    if scorecard.refused is None:
        return []
    references = f"{_share(scorecard.refused_references)} of the references"
    return [[f'replies with "{phrase}"', _share(scorecard.refused), references, NONE]]


def _share(share: Mean | None) -> str:
    if share is None:
        return NONE
    return f"{100 * share.mean:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _score(scores: ReplyScores | None, name: str) -> str:
    return NONE if scores is None else f"{getattr(scores, name):.3f}"


def _beside(baselines: Mapping[str, ReplyScores], name: str) -> str:
    return ", ".join(f"{getattr(scores, name):.3f} {label}" for label, scores in baselines.items()) or NONE


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f} s"
