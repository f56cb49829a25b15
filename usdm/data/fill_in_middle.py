"""Fill in the middle (Bavarian et al., arXiv 2207.14255): a document's middle moves to its end, so that a causal model
learns to write between what stands before and after. Jointly as PSM and SPM, as HyperCLOVA X is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from usdm.tokens import SpeechTextVocabulary
from usdm.tokens.template import AFTER_TEXT
from usdm.types import InputError


class Part(NamedTuple):
    """Characters `start` to `end` of a document, and the tag that stands before them."""

    tag: str | None
    start: int
    end: int


@dataclass(frozen=True)
class FillInMiddle:
    """How often, and by which tags of the tokenizer. A tokenizer that has no such tags is given them by `pretrain`.

    PSM is `<prefix>` prefix `<suffix>` suffix `<middle>` middle; SPM, in the variant for joint training (section 3 and
    appendix D there), is `<prefix>` `<suffix>` suffix `<middle>` prefix middle.

    Raises InputError for a share outside 0..1, or tags that are not three different ones.
    """

    rate: float = 0.5  # of documents; the others are read from left to right
    spm_share: float = 0.5  # of those
    prefix: str = "<|fim_prefix|>"
    suffix: str = "<|fim_suffix|>"
    middle: str = "<|fim_middle|>"

    def __post_init__(self) -> None:
        if not (0 <= self.rate <= 1 and 0 <= self.spm_share <= 1):
            raise InputError(f"rate={self.rate}, spm_share={self.spm_share}: give shares of 0 to 1")
        if len(set(self.tags)) != 3 or not all(self.tags):
            raise InputError(f"{', '.join(map(repr, self.tags))}: prefix, suffix and middle need a tag each")

    @property
    def tags(self) -> tuple[str, str, str]:
        return self.prefix, self.suffix, self.middle

    def check(self, vocabulary: SpeechTextVocabulary) -> None:
        """Raises InputError if the tokenizer lacks a tag, or reads one as plain text."""
        known = vocabulary.tokenizer.get_vocab()
        for tag in self.tags:
            if vocabulary.encode_text(tag) != [known.get(tag)]:
                raise InputError(
                    f"{tag} is no token of this tokenizer: name those that it has by fill_in_middle.prefix=, suffix= "
                    "and middle=, or begin with `usdm pretrain`, which adds them"
                )

    def parts(self, document: str, random: np.random.Generator) -> list[Part]:
        """A document's parts in the order in which they are written.

        Cut at two places, drawn uniformly from all between its characters; left whole with probability 1 - rate.
        """
        if random.random() >= self.rate:
            return [Part(None, 0, len(document))]
        first, second = sorted(random.integers(0, len(document) + 1, 2).tolist())
        if random.random() < self.spm_share:
            return [
                Part(self.prefix, 0, 0),
                Part(self.suffix, second, len(document)),
                Part(self.middle, 0, first),
                Part(None, first, second),
            ]
        return [
            Part(self.prefix, 0, first),
            Part(self.suffix, second, len(document)),
            Part(self.middle, first, second),
        ]

    def ids(self, document: str, vocabulary: SpeechTextVocabulary, random: np.random.Generator) -> NDArray[np.int32]:
        """Each part tokenized by itself; only what begins the document is tokenized as a beginning."""
        found: list[int] = []
        for tag, start, end in self.parts(document, random):
            found += [] if tag is None else vocabulary.encode_text(tag)
            text = document[start:end]
            found += _continued(text, vocabulary) if start else vocabulary.encode_text(text)
        return np.array(found, np.int32)


def _continued(text: str, vocabulary: SpeechTextVocabulary) -> list[int]:
    """Ids of a text that goes on from another: many tokenizers would begin it with a space."""
    for anchor in AFTER_TEXT:
        head = vocabulary.encode_text(anchor)
        ids = vocabulary.encode_text(anchor + text)
        if ids[: len(head)] == head:
            return ids[len(head) :]
    raise InputError(f"{text[:40]!r}: the tokenizer merges it with whatever stands before it; use another one")
