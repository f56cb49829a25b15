"""Interleaved speech-text sequences: first planned as spans of words, then written as ids (USDM, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from usdm.types import InputError

Modality = Literal["text", "units"]
# How a span goes on from the one before it: it opens the sequence; it carries on in the same modality, or in the
# other one (<|continue|> between); it is the same words in the other modality (<|correspond|> between).
Link = Literal["start", "same", "continue", "correspond"]

# unified: the published scheme. The others are the paper's ablations. continuation: no correspondence.
# correspondence: every segment in both modalities, the next one starting in the modality that was written last,
# so that <|continue|> never occurs. fixed: units, the same as text, <|continue|>, units, and so on. separate: no
# interleaving, the whole utterance in one modality.
Pattern = Literal["unified", "continuation", "correspondence", "fixed", "separate"]
PATTERNS: tuple[Pattern, ...] = ("unified", "continuation", "correspondence", "fixed", "separate")

_OTHER: dict[Modality, Modality] = {"text": "units", "units": "text"}


class Span(NamedTuple):
    """Words `first` to `last` (excluded) of an utterance in one modality."""

    modality: Modality
    first: int
    last: int
    link: Link


class TokenizedUtterance(NamedTuple):
    """An utterance of W words as ids. Word i has text ids `text_ends[i]` to `text_ends[i + 1]`, units likewise."""

    text: NDArray[np.int32]  # (T,)
    text_ends: Sequence[int]  # W + 1 of them, the first is 0
    units: NDArray[np.int32]  # (U,) ids of units
    unit_ends: Sequence[int]  # W + 1 of them, the first is 0


class SequenceMarks(NamedTuple):
    """The ids that structure a sequence."""

    start: NDArray[np.int32]  # before everything; may be empty
    end: NDArray[np.int32]  # after everything; may be empty
    continuation: NDArray[np.int32]  # <|continue|>
    correspondence: NDArray[np.int32]  # <|correspond|>


def plan_spans(boundaries: Sequence[int], pattern: Pattern, generator: np.random.Generator) -> list[Span]:
    """What is written as text and what as units, for segments between `boundaries` (word indices).

    unified: each segment is text or units with probability 1/2; with probability 1/2 the same segment in the
    other modality follows.

    Raises:
        InputError: unknown pattern.
    """
    if pattern not in PATTERNS:
        raise InputError(f"pattern={pattern!r}: there are {', '.join(PATTERNS)}")
    if pattern == "separate":
        boundaries = [boundaries[0], boundaries[-1]]
    draws = generator.random((len(boundaries) - 1, 2)).tolist()
    spans: list[Span] = []
    for (first, last), (modality_draw, correspond_draw) in zip(pairwise(boundaries), draws, strict=True):
        modality: Modality = "text" if modality_draw < 0.5 else "units"
        if pattern == "fixed":
            modality = "units"
        elif pattern == "correspondence" and spans:
            modality = spans[-1].modality
        link: Link = "start" if not spans else "same" if spans[-1].modality == modality else "continue"
        spans.append(Span(modality, first, last, link))
        if pattern in ("correspondence", "fixed") or (pattern == "unified" and correspond_draw < 0.5):
            spans.append(Span(_OTHER[modality], first, last, "correspond"))
    return spans


class Interleaving:
    """Which words of an utterance are written as text and which as units.

    A scheme of one's own is a dataclass that extends this, in any module that Python can import. Its fields are its
    settings.
    """

    def plan(self, boundaries: Sequence[int], generator: np.random.Generator) -> list[Span]:
        """Spans of the words between the `boundaries` of segments (word indices, the first is 0), in order.

        All chance comes from `generator`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no plan")


@dataclass(frozen=True)
class PatternInterleaving(Interleaving):
    """The published scheme, or an ablation of it; see `Pattern`."""

    pattern: Pattern = "unified"

    def plan(self, boundaries: Sequence[int], generator: np.random.Generator) -> list[Span]:
        """As `plan_spans`."""
        return plan_spans(boundaries, self.pattern, generator)


def sequence_ids(
    spans: Sequence[Span], utterance: TokenizedUtterance, marks: SequenceMarks
) -> tuple[list[NDArray[np.int32]], list[Span | None]]:
    """The pieces of a sequence in order, to be joined, and for each the span that it writes (None for marks)."""
    pieces: list[NDArray[np.int32]] = [marks.start]
    origins: list[Span | None] = [None]
    text, text_ends, units, unit_ends = utterance
    for span in spans:
        if span.link == "continue":
            pieces.append(marks.continuation)
            origins.append(None)
        elif span.link == "correspond":
            pieces.append(marks.correspondence)
            origins.append(None)
        if span.modality == "text":
            pieces.append(text[text_ends[span.first] : text_ends[span.last]])
        else:
            pieces.append(units[unit_ends[span.first] : unit_ends[span.last]])
        origins.append(span)
    return [*pieces, marks.end], [*origins, None]
