"""How good a system is: predictions made once, scored any number of times, and held against each other.

predict(ChainSystem(pipeline), read_held_out("held_out"), "runs/predictions")
print(score("runs/predictions", PocketSphinxRecogniser(), {"wer": WordErrorRates()}).to_markdown())
"""

from usdm.evaluation.cascade import Cascade
from usdm.evaluation.compare import compare_results, named_folders
from usdm.evaluation.held_out import HeldOutItem, read_held_out
from usdm.evaluation.predictions import ChainSystem, predict
from usdm.evaluation.recordings import TranscriptScore, evaluate_recordings, transcript_table
from usdm.evaluation.scorecard import Baselines, Scorecard, score

__all__ = [
    "Baselines",
    "Cascade",
    "ChainSystem",
    "HeldOutItem",
    "Scorecard",
    "TranscriptScore",
    "compare_results",
    "evaluate_recordings",
    "named_folders",
    "predict",
    "read_held_out",
    "score",
    "transcript_table",
]
