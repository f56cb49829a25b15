"""Text ids, tags and unit ids in one vocabulary, and dialog turns laid out in it."""

from usdm.tokens.layout import (
    JUDGE_LAYOUTS,
    LAYOUTS,
    PUBLISHED_PREAMBLE,
    TemplateSettings,
    TurnContent,
    TurnLayout,
)
from usdm.tokens.normalisers import find_normaliser
from usdm.tokens.template import IGNORED, DialogTemplate, TrainingExample, normalise_text
from usdm.tokens.vocabulary import SpeechTextVocabulary, extend_tokenizer, read_tokenizer

__all__ = [
    "IGNORED",
    "JUDGE_LAYOUTS",
    "LAYOUTS",
    "PUBLISHED_PREAMBLE",
    "DialogTemplate",
    "SpeechTextVocabulary",
    "TemplateSettings",
    "TrainingExample",
    "TurnContent",
    "TurnLayout",
    "extend_tokenizer",
    "find_normaliser",
    "normalise_text",
    "read_tokenizer",
]
