"""From word times to interleaved speech-text sequences: pure functions, nothing is read or written."""

from usdm.interleave.alignment import SpokenWords, spoken_form, spoken_words
from usdm.interleave.generator import keyed_generator
from usdm.interleave.segments import segment_boundaries
from usdm.interleave.sequence import (
    PATTERNS,
    Interleaving,
    Pattern,
    PatternInterleaving,
    SequenceMarks,
    Span,
    TokenizedUtterance,
    plan_spans,
    sequence_ids,
)

__all__ = [
    "PATTERNS",
    "Interleaving",
    "Pattern",
    "PatternInterleaving",
    "SequenceMarks",
    "Span",
    "SpokenWords",
    "TokenizedUtterance",
    "keyed_generator",
    "plan_spans",
    "segment_boundaries",
    "sequence_ids",
    "spoken_form",
    "spoken_words",
]
