"""Likelihood pairs of any speech corpus in SALMon's layout: textless language modelling can be measured offline.

Two parts, both of halves of utterances that are cut between words and joined, in the better sound as in the worse, so
that no join gives one away:

- `continuation`: an utterance's own second half, against that of another utterance of the same speaker. As topic
  StoryCloze asks: what goes on from here?
- `speaker_consistency`: the second half of another utterance of the same speaker, against one of another speaker. As
  in SALMon. The level of the second half is made that of the first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from usdm.audio import write_audio
from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.runs import claim, publishing, write_text
from usdm.types import InputError

SAMPLE_RATE = 16_000  # Hz
FADE = 160  # samples over which halves are joined
SHORTEST = 1.2  # seconds of an utterance
FRAME = 320  # samples, in which the quietest place is looked for
PARTS = ("continuation", "speaker_consistency")


@dataclass(frozen=True)
class Halves:
    """An utterance cut between two words, near its middle."""

    utterance: Utterance
    first: Tensor  # (T,) float32 at SAMPLE_RATE
    second: Tensor


def make_pairs(
    corpora: Sequence[str], output_dir: str, *, pairs: int, split: str | None, seed: int, overwrite: bool = False
) -> dict[str, int]:
    """Write `PART/sample_NUMBER_0.wav` and `_1.wav`, and `sources.jsonl` that says what they are made of.

    Args:
        pairs: of each part, at most; an utterance begins one pair of each.
        split: of the corpora; None: all.
        overwrite: delete pairs of another corpus, number or seed.

    Returns:
        The number of pairs of each part.

    Raises:
        InputError: there is no speaker with two utterances that are long enough, or `output_dir` holds other pairs.
    """
    utterances = [each for each in read_speech_corpora(corpora, split) if each.duration >= SHORTEST]
    speakers: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        speakers[utterance.speaker].append(utterance)
    beginnings = [each for each in utterances if len(speakers[each.speaker]) > 1]
    if not beginnings:
        raise InputError(
            f"{', '.join(corpora)}: no speaker has two utterances of {SHORTEST} s or more; give a larger corpus"
        )
    random = np.random.default_rng(seed)
    order = [beginnings[place] for place in random.permutation(len(beginnings))[:pairs]]
    settings = {"pairs": pairs, "split": split, "seed": seed}
    results = (*PARTS, "sources.jsonl")
    with claim(output_dir, settings, {"corpora": list(corpora)}, results=results, overwrite=overwrite) as claimed:
        folder = Path(output_dir)
        rows = []
        with (
            publishing(folder / PARTS[0], folder=True) as continuation,
            publishing(folder / PARTS[1], folder=True) as consistency,
        ):
            for number, utterance in enumerate(order):
                same = _other(speakers[utterance.speaker], utterance, random)
                strangers = [each for each in utterances if each.speaker != utterance.speaker]
                own, another = _halves(utterance), _halves(same)
                sources = [utterance.id, same.id]
                _write(continuation, number, own.first, own.second, another.second)
                if strangers:
                    stranger = _halves(strangers[random.integers(len(strangers))])
                    sources.append(stranger.utterance.id)
                    _write(consistency, number, own.first, another.second, stranger.second)
                rows.append({"number": number, "begins": sources[0], "same": sources[1], "other": sources[2:]})
        write_text(folder / "sources.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        counts = {part: len(list((folder / part).glob("*_0.wav"))) for part in PARTS}
        claimed.finish(counts)
    return counts


def _other(utterances: Sequence[Utterance], but: Utterance, random: np.random.Generator) -> Utterance:
    others = [each for each in utterances if each.id != but.id]
    return others[random.integers(len(others))]


def _write(folder: Path, number: int, first: Tensor, better: Tensor, worse: Tensor) -> None:
    for name, second in (("0", better), ("1", worse)):
        write_audio(folder / f"sample_{number}_{name}.wav", joined(first, second), SAMPLE_RATE)


def joined(first: Tensor, second: Tensor) -> Tensor:
    """Both one after the other, faded into each other, the second as loud as the first."""
    level = first.square().mean().sqrt() / second.square().mean().sqrt().clamp(min=1e-5)
    second = second * level
    fade = torch.linspace(0, 1, FADE)
    middle = first[-FADE:] * (1 - fade) + second[:FADE] * fade
    whole = torch.cat([first[:-FADE], middle, second[FADE:]])
    return whole / whole.abs().max().clamp(min=1.0)


def _halves(utterance: Utterance) -> Halves:
    samples = utterance.read(SAMPLE_RATE).samples
    cut = cut_place(samples, [word.end for word in utterance.words[:-1]])
    return Halves(utterance, samples[: cut + FADE // 2], samples[cut - FADE // 2 :])


def cut_place(samples: Tensor, word_ends: Sequence[float]) -> int:
    """The end of a word nearest to the middle, or the quietest place of the middle third where none is known."""
    third = len(samples) // 3
    ends = [round(end * SAMPLE_RATE) for end in word_ends]
    if near := [end for end in ends if third <= end <= 2 * third]:
        return min(near, key=lambda end: abs(end - len(samples) // 2))
    frames = samples[third : 2 * third].unfold(0, FRAME, FRAME // 2).square().mean(dim=1)
    return third + int(frames.argmin()) * (FRAME // 2) + FRAME // 2
