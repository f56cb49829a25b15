"""How good a model is: held-out dialogs through the whole chain, and transcripts of real recordings.

scorecard = evaluate(pipeline, "held_out", PocketSphinxRecogniser(), "outputs/evaluation")
print(scorecard_table(scorecard))
"""

from usdm.asr.pocketsphinx import PocketSphinxRecogniser
from usdm.asr.recogniser import Recogniser
from usdm.asr.whisper import WhisperRecogniser
from usdm.evaluation.dialogs import evaluate
from usdm.evaluation.held_out import HeldOutItem, read_held_out
from usdm.evaluation.recordings import TranscriptScore, evaluate_recordings, transcript_table
from usdm.evaluation.scorecard import ReplyScores, Scorecard, Speed
from usdm.evaluation.scorecard_table import scorecard_table
from usdm.metrics.intervals import WordErrorGap, WordErrorRate
from usdm.metrics.text import WordErrors, meteor, rouge_l, scored_words, word_errors

__all__ = [
    "HeldOutItem",
    "PocketSphinxRecogniser",
    "Recogniser",
    "ReplyScores",
    "Scorecard",
    "Speed",
    "TranscriptScore",
    "WordErrorGap",
    "WordErrorRate",
    "WhisperRecogniser",
    "WordErrors",
    "evaluate",
    "evaluate_recordings",
    "meteor",
    "read_held_out",
    "rouge_l",
    "scorecard_table",
    "scored_words",
    "transcript_table",
    "word_errors",
]
