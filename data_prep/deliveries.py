"""The same words said in two ways: recordings changed by `librosa.effects`, and sentences that a synthesiser says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from data_prep.embedded_model.synthesisers import check_speakers, speak_as
from usdm.data.speech_corpus import Utterance
from usdm.evaluation.deliveries import Delivery
from usdm.tokens.spoken_text import spoken_text
from usdm.types import InputError, Waveform

RATES = (0.85, 1.2)  # of the recording's own speed
SEMITONES = (-3.0, 3.0)
LEVELS = (-12.0, 0.0)  # dB
WAYS = ("rate", "pitch", "level", "question")


def deliveries(utterances: Sequence[Utterance], ways: Sequence[str], speaker: str | None) -> list[Delivery]:
    """Of each utterance a pair for each way.

    Args:
        ways: of `WAYS`. `question` is said by a synthesiser: the words with a full stop, and with a question mark.
        speaker: its voice; see `data_prep.embedded_model.synthesisers`.

    Raises:
        InputError: a way is unknown; librosa or the voice is not installed; `question` without a voice.
    """
    if unknown := sorted(set(ways) - set(WAYS)):
        raise InputError(f"ways {', '.join(unknown)}: there are {', '.join(WAYS)}")
    if "question" in ways:
        if speaker is None:
            raise InputError("ways=[question] is said by a synthesiser: give speaker=espeak-en-us+m3, flite-slt, ...")
        check_speakers([speaker])
    return [pair for utterance in utterances for way in ways for pair in _pair(utterance, way, speaker)]


def _pair(utterance: Utterance, way: str, speaker: str | None) -> Iterator[Delivery]:
    if way == "question":
        words = spoken_text(utterance.text or "").rstrip(".? ")
        assert speaker is not None
        a, b = (_spoken(f"{words}{mark}", speaker) for mark in ".?")
    else:
        a, b = _changed(utterance.read(), way)
    yield Delivery(f"{utterance.id}-{way}", way, utterance.dialog, a, b)


def _changed(sound: Waveform, way: str) -> tuple[Waveform, Waveform]:
    """Both deliveries are changed, so that none of them is the one without traces of it."""
    if way == "level":
        sides = [sound.samples * 10 ** (level / 20) for level in LEVELS]
        return Waveform(sides[0], sound.sample_rate), Waveform(sides[1], sound.sample_rate)
    try:
        from librosa import effects
    except ImportError as error:
        raise InputError(f"ways=[{way}] needs the package librosa ({error}): pip install 'usdm[evaluate]'") from error
    samples = sound.samples.numpy()
    if way == "rate":
        changed = [effects.time_stretch(samples, rate=rate) for rate in RATES]
    else:
        changed = [effects.pitch_shift(samples, sr=sound.sample_rate, n_steps=steps) for steps in SEMITONES]
    a, b = (Waveform(torch.from_numpy(np.ascontiguousarray(each)).float(), sound.sample_rate) for each in changed)
    return a, b


def _spoken(text: str, speaker: str) -> Waveform:
    """Both sentences in the same tempo and height: the same generator draws them."""
    spoken = speak_as(speaker, text, np.random.default_rng(0))
    return Waveform(torch.from_numpy(spoken.samples).float() / 32768, spoken.sample_rate)
