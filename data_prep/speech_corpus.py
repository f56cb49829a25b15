"""Dialog text to a speech corpus with two roles: many user voices with variation, a few clean agent voices."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from data_prep import espeak
from data_prep.augment import SAMPLE_RATE, draw_noise, draw_variation, vary
from data_prep.files import write_atomically
from data_prep.flite import SpokenText
from data_prep.not_understood import NOTHING_SAID
from data_prep.synthesisers import check_speakers, flite_voice, speak_as
from usdm.audio import read_audio
from usdm.types import AlignedWord, InputError

logger = logging.getLogger(__name__)

_DIALOGS_PER_PART = 100


@dataclass(frozen=True)
class Voices:
    """Who speaks: agents are named as in `data_prep.flite.VOICES`, users as in `data_prep.synthesisers.SPEAKERS`."""

    agents: Sequence[str]  # one a dialog
    user: Sequence[str]
    espeak_share: float  # of user turns, spoken by a random eSpeak voice
    held_out: Sequence[str] = ()  # heard in split "test" only


def synthesize_corpus(dialogs_file: str, output_dir: str, *, voices: Voices, processes: int, seed: int) -> int:
    """Speak every dialog; write `audio/` (16 kHz FLAC) and `manifest.jsonl`, one line a turn.

    What a dialog sounds like depends on the seed and the dialog's name alone. Interrupted, it goes on where it was:
    finished parts lie in `parts/`. The same agent text is spoken once and shared.

    Returns:
        The number of turns.

    Raises:
        InputError: the dialogs file is missing, a speaker is unknown, or a synthesiser is not installed.
    """
    source = Path(dialogs_file)
    if not source.is_file():
        raise InputError(f"{source} does not exist: run `usdm prepare_dialogs` first, or give dialogs_file=.")
    dialogs = [json.loads(line) for line in source.read_text().splitlines()]
    agents = [f"flite-{agent}" for agent in voices.agents]
    of_espeak = [f"espeak-{voice}" for voice in espeak.VOICES] if voices.espeak_share else []
    check_speakers([*agents, *voices.user, *voices.held_out, *of_espeak])
    folder = Path(output_dir)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    (folder / "parts").mkdir(exist_ok=True)
    parts = [
        _Part(
            folder,
            folder / "parts" / f"{start // _DIALOGS_PER_PART:05d}.jsonl",
            dialogs[start : start + _DIALOGS_PER_PART],
            voices,
            seed,
        )
        for start in range(0, len(dialogs), _DIALOGS_PER_PART)
    ]
    todo = [part for part in parts if not part.rows.exists()]
    logger.info("%d of %d parts are there already", len(parts) - len(todo), len(parts))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for _ in tqdm(pool.imap_unordered(_speak_part, todo), total=len(todo), unit="part", desc="synthesize_corpus"):
            pass
    manifest = "".join(part.rows.read_text() for part in parts)
    write_atomically(folder / "manifest.jsonl", manifest)
    return manifest.count("\n")


@dataclass(frozen=True)
class _Part:
    folder: Path
    rows: Path
    dialogs: list[dict]
    voices: Voices
    seed: int


def _speak_part(part: _Part) -> None:
    import torch

    torch.set_num_threads(1)
    rows = [row for dialog in part.dialogs for row in _speak_dialog(part, dialog)]
    write_atomically(part.rows, "".join(json.dumps(row) + "\n" for row in rows))


def _speak_dialog(part: _Part, dialog: dict) -> list[dict]:
    digest = hashlib.sha256(f"{part.seed}/{dialog['dialog']}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    agent = part.voices.agents[int(random.integers(len(part.voices.agents)))]
    rows = []
    for index, turn in enumerate(dialog["turns"]):
        name = f"{dialog['dialog']}-{index}"
        if turn["role"] == "agent":
            audio = f"audio/agent-{agent}-{hashlib.sha256(turn['text'].encode()).hexdigest()[:16]}.flac"
            speaker, spoken, speed = f"flite-{agent}", flite_voice(agent).speak(turn["text"]), 1.0
            sound = spoken.samples.astype(np.float32) / 32768
        else:
            audio = f"audio/{name}.flac"
            variation = draw_variation(random)
            speaker, spoken = _user_sound(turn, dialog["split"], part.voices, variation.speed, random)
            speed, sound = variation.speed, vary(spoken.samples, spoken.sample_rate, variation, random)
        if not (part.folder / audio).exists():
            _write_sound(part.folder / audio, sound)
        rows.append(
            {
                "id": name,
                "audio": audio,
                "speaker": speaker,
                "role": turn["role"],
                "dialog": dialog["dialog"],
                "turn": index,
                "split": dialog["split"],
                "text": turn["text"],
                "duration": round(len(sound) / SAMPLE_RATE, 3),
                "sample_rate": SAMPLE_RATE,
                "words": _times(spoken.words, speed),
                "phones": _times(spoken.phones, speed) or None,
                "pronunciation": _pronunciation(turn["text"]),
            }
        )
    return rows


def _user_sound(
    turn: dict, split: str, voices: Voices, speed: float, random: np.random.Generator
) -> tuple[str, SpokenText]:
    """A recording that the turn brings, noise alone where nothing is said, or a synthesiser's voice."""
    if "audio" in turn:
        samples = (read_audio(turn["audio"], SAMPLE_RATE).samples.numpy() * 32767).astype(np.int16)
        return "recording", SpokenText(samples, SAMPLE_RATE, (), ())
    if turn["text"] == NOTHING_SAID:
        return "noise", SpokenText(draw_noise(random), SAMPLE_RATE, (), ())
    return _speak_user(turn["text"], split, voices, speed, random)


def _speak_user(
    text: str, split: str, voices: Voices, speed: float, random: np.random.Generator
) -> tuple[str, SpokenText]:
    """Slower by `speed`, which the variation will make up for: it moves the voice, not the tempo."""
    if random.random() < voices.espeak_share:
        speaker = f"espeak-{espeak.VOICES[random.integers(len(espeak.VOICES))]}"
    else:
        names = list(voices.user) + (list(voices.held_out) if split == "test" else [])
        speaker = names[random.integers(len(names))]
    return speaker, speak_as(speaker, text, random, speed=speed)


@lru_cache(maxsize=100_000)
def _pronunciation(text: str) -> list[str]:
    """Phones of a text whoever speaks it: kal16, the diphone voice, is the cheapest way to flite's lexicon."""
    if text == NOTHING_SAID:
        return []
    return [phone.text for phone in flite_voice("kal16").speak(text).phones if phone.text != "pau"]


def _times(spans: Sequence[AlignedWord], speed: float) -> list[list]:
    return [[span.text, round(span.start / speed, 3), round(span.end / speed, 3)] for span in spans]


def _write_sound(path: Path, sound: np.ndarray) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes may say the same agent text
    soundfile.write(part, sound, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    os.replace(part, path)
