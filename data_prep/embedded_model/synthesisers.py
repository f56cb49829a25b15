"""Every synthesiser's voices under one name, such as `flite-rms` or `rhvoice-alan`, each turn in a tempo of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from data_prep.embedded_model import espeak, festival, flite, kokoro, pico, rhvoice
from data_prep.embedded_model.flite import Flite, Synthesised
from usdm.types import InputError

SPEAKERS = tuple(
    f"{synthesiser.__name__.rpartition('.')[2]}-{voice}"
    for synthesiser in (flite, espeak, rhvoice, pico, festival, kokoro)
    for voice in synthesiser.VOICES
)


def speak_as(
    speaker: str,
    text: str,
    random: np.random.Generator,
    *,
    speed: float = 1.0,
    kokoro_model: str | Path = kokoro.HUB,
) -> Synthesised:
    """Say `text` in a drawn tempo, and pitch where the synthesiser has one, slower by `speed`.

    Args:
        speaker: one of `SPEAKERS`; of Kokoro also a blend, such as `kokoro-af_heart*bm_lewis`.
        kokoro_model: on the hub, or a folder.

    Raises:
        InputError: the speaker is unknown, its synthesiser is not installed, or nothing in the text can be spoken.
    """
    synthesiser, _, voice = speaker.partition("-")
    if synthesiser == "flite":
        return flite_voice(voice).speak(text, stretch=float(random.uniform(0.85, 1.2)) * speed)
    if synthesiser == "espeak":
        rate, height = int(random.integers(135, 190) / speed), int(random.integers(30, 70))
        return _espeak().speak(text, voice, words_per_minute=rate, pitch=height)
    if synthesiser == "rhvoice":
        tempo, pitch = random.uniform(0.85, 1.25) / speed, random.uniform(0.85, 1.15)
        return _rhvoice().speak(text, voice, rate=tempo, pitch=pitch)
    if synthesiser == "pico":
        return pico.speak(text, voice, speed=int(random.integers(80, 125) / speed), pitch=int(random.integers(80, 120)))
    if synthesiser == "festival":
        return festival.speak(text, voice, stretch=float(random.uniform(0.9, 1.25)) * speed)
    if synthesiser == "kokoro":
        return kokoro_voices(kokoro_model).speak(text, voice, speed=float(random.uniform(0.85, 1.25)) / speed)
    raise InputError(f"Unknown speaker '{speaker}': choose one of {', '.join(SPEAKERS)}.")


def speak_plainly(speaker: str, text: str, *, kokoro_model: str | Path = kokoro.HUB) -> Synthesised:
    """Say `text` as the voice says it by itself: an agent's way. Only flite, eSpeak NG and Kokoro.

    Raises:
        InputError: as `speak_as`.
    """
    synthesiser, _, voice = speaker.partition("-")
    if synthesiser == "flite":
        return flite_voice(voice).speak(text)
    if synthesiser == "espeak":
        return _espeak().speak(text, voice)
    if synthesiser == "kokoro":
        return kokoro_voices(kokoro_model).speak(text, voice)
    raise InputError(f"'{speaker}' cannot be an agent: choose a voice of flite, eSpeak NG or Kokoro.")


def check_speakers(speakers: Sequence[str], text: str = "hello.", *, kokoro_model: str | Path = kokoro.HUB) -> None:
    """Have each speaker say `text`, so that what is not installed is known before any work.

    Raises:
        InputError: a speaker is unknown, does not speak that language, or is not installed.
    """
    for speaker in speakers:
        speak_as(speaker, text, np.random.default_rng(0), kokoro_model=kokoro_model)


@cache
def flite_voice(voice: str) -> Flite:
    """One object a voice: loading it takes longer than a turn."""
    return Flite(voice)


@lru_cache(maxsize=1)
def kokoro_voices(model: str | Path) -> kokoro.Kokoro:
    """One object a process: it has hundreds of megabytes."""
    return kokoro.Kokoro(model)


@lru_cache(maxsize=1)
def _espeak() -> espeak.Espeak:
    return espeak.Espeak()


@lru_cache(maxsize=1)
def _rhvoice() -> rhvoice.RHVoice:
    return rhvoice.RHVoice()
