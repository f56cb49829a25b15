"""Small samples of Full-Duplex-Bench's four tasks, made of any speech corpus: conversations can be measured offline.

- `pause`: a user's turn with a pause within, up to its last word: nobody should answer yet.
- `turn_taking`: a turn and silence after it, in which an answer should come.
- `interrupt`: a turn, silence, and another turn said while the answer is played, or after it.
- `backchannel`: three turns in a row, as by one who goes on: nobody should take over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from usdm.audio import write_audio
from usdm.conversation.full_duplex_bench import TASKS, Task
from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.runs import claim, publishing
from usdm.turns import SAMPLE_RATE
from usdm.turns.moments import noise, places_of_pauses, quietest_level, with_pauses
from usdm.types import InputError

PAUSE = 1.0  # seconds within a turn
BREATH = 0.35  # seconds between turns of one who goes on
ANSWER = 5.0  # seconds of silence for an answer
BEFORE_INTERRUPTION = 2.0  # seconds of silence after the turn that is answered


def make_full_duplex_bench(
    corpora: Sequence[str], output_dir: str, *, count: int, split: str | None, seed: int, overwrite: bool = False
) -> dict[str, int]:
    """Write `TASK/NUMBER/input.wav` (16 kHz) and `TASK/NUMBER/TASK.json` with the times of what is marked.

    Args:
        count: samples of each task.
        split: of the corpora; None: all.
        overwrite: delete samples of another corpus, number or seed.

    Returns:
        The number of samples of each task.

    Raises:
        InputError: there is no user's turn with a place for a pause, or `output_dir` holds other samples.
    """
    turns = [each for each in read_speech_corpora(corpora, split) if each.role == "user" and each.text]
    if not turns:
        raise InputError(f"{', '.join(corpora)}: no user's turn with text; give a corpus of dialogs")
    settings = {"count": count, "split": split, "seed": seed}
    with claim(output_dir, settings, {"corpora": list(corpora)}, results=TASKS, overwrite=overwrite) as claimed:
        for place, task in enumerate(TASKS):
            random = np.random.default_rng([seed, place])
            with publishing(Path(output_dir) / task, folder=True) as folder:
                for number in range(count):
                    sound, marked = _sample(task, turns, random)
                    sample = folder / f"{number:03d}"
                    sample.mkdir()
                    write_audio(sample / "input.wav", sound, SAMPLE_RATE)
                    times = [{"timestamp": [round(seconds, 3) for seconds in marked]}]
                    (sample / f"{task}.json").write_text(json.dumps(times) + "\n", encoding="utf-8")
        counts = {str(task): count for task in TASKS}
        claimed.finish(counts)
    return counts


def _sample(task: Task, turns: Sequence[Utterance], random: np.random.Generator) -> tuple[Tensor, tuple[float, float]]:
    """Its sound, (T,) float32, and the seconds that are marked."""
    if task == "pause":
        return _with_pause(turns, random)
    said, level = _turn(turns, random)
    end = len(said) / SAMPLE_RATE
    if task == "turn_taking":
        return torch.cat([said, _silence(ANSWER, level, random)]), (end, end + ANSWER)
    if task == "interrupt":
        other, _ = _turn(turns, random)
        start = end + BEFORE_INTERRUPTION
        wait, after = _silence(BEFORE_INTERRUPTION, level, random), _silence(ANSWER, level, random)
        return torch.cat([said, wait, other, after]), (start, start + len(other) / SAMPLE_RATE)
    pieces = [said]
    for _ in range(2):
        pieces += [_silence(BREATH, level, random), _turn(turns, random)[0]]
    whole = torch.cat(pieces)
    return whole, (0.0, len(whole) / SAMPLE_RATE)


def _turn(turns: Sequence[Utterance], random: np.random.Generator) -> tuple[Tensor, float]:
    """Up to its last speech, and the level of its silence."""
    sound = turns[int(random.integers(len(turns)))].read(SAMPLE_RATE).samples
    return sound[: round(places_of_pauses(sound)[-1] * SAMPLE_RATE)], quietest_level(sound)


def _with_pause(turns: Sequence[Utterance], random: np.random.Generator) -> tuple[Tensor, tuple[float, float]]:
    """Of a drawn turn that has a place for one. Raises InputError if none has."""
    for place in random.permutation(len(turns)):
        sound = turns[place].read(SAMPLE_RATE).samples
        ends = [word.end for word in turns[place].words] or places_of_pauses(sound)
        if len(ends) > 1:
            word = int(random.integers(len(ends) - 1))
            paused = with_pauses(sound, ends, [(word, round(PAUSE * SAMPLE_RATE)), (len(ends) - 1, 0)], random)
            return paused, (ends[word], ends[word] + PAUSE)
    raise InputError("no user's turn has a place between two words where a pause fits in; give other recordings")


def _silence(seconds: float, level: float, random: np.random.Generator) -> Tensor:
    return noise(round(seconds * SAMPLE_RATE), level, random)
