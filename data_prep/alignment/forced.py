"""CTC forced alignment: log-probabilities of a whole utterance and its words' symbols -> where each word lies.

The search is `torchaudio.functional.forced_align` (CPU and CUDA).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torchaudio.functional import TokenSpan, forced_align, merge_tokens

from data_prep.alignment.spelling import Spelling
from usdm.types import InputError

_MOST_CELLS = 2**31  # of frames times symbols: the search keeps a byte of each


@dataclass(frozen=True)
class WordSpan:
    """Frames of a word, its symbols' spans and its confidence; a word without symbols lies between its neighbours."""

    start: int
    end: int
    symbols: tuple[TokenSpan, ...]
    confidence: float


def align_words(
    log_probs: Tensor, words: Sequence[Spelling], *, blank: int, delimiter: int | None = None
) -> list[WordSpan]:
    """Frames of each word.

    Args:
        log_probs: (F, V), natural logarithms.
        words: their symbols; some may have none, not all.
        delimiter: symbol between two words, if the model has one.

    Raises:
        InputError: fewer frames than the symbols need, no symbols at all, or more of both than can be searched.
    """
    symbols, owners = _sequence(words, delimiter)
    if not symbols:
        raise InputError("no word of the text can be spelled in the aligner's symbols")
    repeats = sum(left == right for left, right in zip(symbols, symbols[1:], strict=False))
    if len(symbols) + repeats > len(log_probs):
        raise InputError(
            f"{len(log_probs)} frames of sound are too few for the {len(symbols)} symbols of the text: does it belong "
            "to this sound?"
        )
    if len(log_probs) * (2 * len(symbols) + 1) > _MOST_CELLS:
        raise InputError(f"{len(log_probs)} frames with {len(symbols)} symbols are too many at once: cut it up")
    path, scores = forced_align(log_probs[None], torch.tensor([symbols], device=log_probs.device), blank=blank)
    spans = merge_tokens(path[0], scores[0], blank)
    return _by_word(spans, owners, len(words), len(log_probs))


def _sequence(words: Sequence[Spelling], delimiter: int | None) -> tuple[list[int], list[int]]:
    """All symbols in order, and the word that each belongs to (-1: the delimiter)."""
    symbols: list[int] = []
    owners: list[int] = []
    for index, word in enumerate(words):
        if symbols and word.ids and delimiter is not None:
            symbols.append(delimiter)
            owners.append(-1)
        symbols += word.ids
        owners += [index] * len(word.ids)
    return symbols, owners


def _by_word(spans: Sequence[TokenSpan], owners: Sequence[int], num_words: int, num_frames: int) -> list[WordSpan]:
    own: list[list[TokenSpan]] = [[] for _ in range(num_words)]
    for span, owner in zip(spans, owners, strict=True):
        if owner >= 0:
            own[owner].append(span)
    starts = [row[0].start if row else None for row in own]
    # What ended before each word, and what begins after it: a word without symbols shares that gap with its like.
    before = list(accumulate((row[-1].end if row else 0 for row in own), max, initial=0))
    after = list(accumulate((num_frames if s is None else s for s in reversed(starts)), min, initial=num_frames))[::-1]
    found = []
    for index, row in enumerate(own):
        if row:
            frames = sum(len(span) for span in row)
            confidence = math.exp(sum(span.score * len(span) for span in row) / frames)
            found.append(WordSpan(row[0].start, row[-1].end, tuple(row), confidence))
        else:
            first = max((i for i in range(index) if own[i]), default=-1) + 1
            last = min((i for i in range(index, num_words) if own[i]), default=num_words)
            low, high = before[index], after[index + 1]
            step = (high - low) / (last - first)
            start, end = round(low + (index - first) * step), round(low + (index + 1 - first) * step)
            found.append(WordSpan(start, end, (), 0.0))
    return found
