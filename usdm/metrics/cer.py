"""Character error rates: what is usual for languages whose words are long, or whose spaces are a matter of taste."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from importlib.metadata import version

import jiwer

from usdm.metrics.figures import Prediction, Ratio, Reference, Value, compared_texts


class CharacterErrorRates:
    """Errors of all items over characters of all items, as `scored_characters` writes both sides.

    Gives `transcript_cer`, `spoken_reply_cer`, `user_recordings_cer` and `agent_recordings_cer`; they are of the same
    texts as the word error rates of `usdm.metrics.wer`.
    """

    about = f"CER without spaces and punctuation, jiwer {version('jiwer')}"
    lower_is_better = True

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        compared = compared_texts(prediction, reference)
        return {f"{name}_cer": character_errors(expected, found) for name, expected, found in compared}


def character_errors(reference: str, hypothesis: str | None) -> Ratio | None:
    """Fewest character edits (package jiwer) over the reference's characters; None where nothing was judged."""
    if hypothesis is None:
        return None
    expected, found = scored_characters(reference), scored_characters(hypothesis)
    if not expected:
        return Ratio(len(found), 0)
    counts = jiwer.process_characters(expected, found)
    return Ratio(counts.substitutions + counts.deletions + counts.insertions, len(expected))


def scored_characters(text: str) -> str:
    """Letters and digits of any script, lower case; a syllable of Hangul is one character.

    >>> scored_characters("몇 시에 올까요? OK!")
    '몇시에올까요ok'
    """
    return "".join(character for character in unicodedata.normalize("NFKC", text).lower() if character.isalnum())
