"""Word error rates: what the model hears, how well it is understood, and how often the judge itself errs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

from usdm.metrics.figures import Prediction, Ratio, Reference, Value, compared_texts
from usdm.metrics.text import word_errors


class WordErrorRates:
    """Errors of all items over words of all items, under Whisper's English normaliser.

    Gives `transcript_wer` (what the model hears, "STT WER"), `spoken_reply_wer` (what the judge hears in the spoken
    reply against the reply's text, "TTS WER"), and the judge's own errors on recordings of the same set:
    `user_recordings_wer` and `agent_recordings_wer`. What is heard in a turn without words counts as insertions.
    """

    about = f"WER, jiwer {version('jiwer')}, whisper-normalizer {version('whisper-normalizer')} (English)"
    lower_is_better = True

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        compared = compared_texts(prediction, reference)
        return {f"{name}_wer": _errors(expected, found) for name, expected, found in compared}


class FalseAlarms:
    """Words that are heard in a turn where nothing is said, such as noise: their number a turn.

    Gives `transcript_false_alarms` of the model, and `user_recordings_false_alarms` of the judge.
    """

    about = "words heard in a turn without any"
    lower_is_better = True

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        if word_errors(reference.user_text, "").words:
            return {}
        heard = {"transcript": prediction.user_text, "user_recordings": reference.user_recognised}
        return {
            f"{name}_false_alarms": float(word_errors("", text).insertions)
            for name, text in heard.items()
            if text is not None
        }


def _errors(reference: str, hypothesis: str | None) -> Ratio | None:
    if hypothesis is None:
        return None
    errors = word_errors(reference, hypothesis)
    return Ratio(errors.errors, errors.words)
