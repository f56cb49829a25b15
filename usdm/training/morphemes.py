"""Where the words of a text are divided into morphemes, for tokenizers that shall not learn pieces across them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from usdm.tokens.korean import HANGUL
from usdm.types import InputError


class Morphemes(Protocol):
    """See this module's docstring."""

    def borders(self, texts: Iterable[str]) -> Iterator[tuple[str, Sequence[int]]]:
        """Each text with the places, ascending, at which a morpheme begins inside a word."""


@dataclass(frozen=True)
class Kiwi:
    """Korean ones, by the analyser Kiwi (package kiwipiepy, extra `korean`). Texts without Hangul stay whole.

    A morpheme that begins inside a syllable (올까요: 오, ㄹ까요) makes no border: pieces are made of whole syllables.

    Raises InputError if the package is not installed.
    """

    def borders(self, texts: Iterable[str]) -> Iterator[tuple[str, Sequence[int]]]:
        try:
            from kiwipiepy import Kiwi as Analyser  # type: ignore[import-untyped]
        except ImportError as error:
            raise InputError("morphemes=kiwi needs the package kiwipiepy: pip install 'usdm[korean]'") from error
        analyser = Analyser(num_workers=1)

        @cache  # a corpus has the same text in many voices
        def starts(text: str) -> Sequence[int]:
            found = {token.start for token in analyser.tokenize(text)} if HANGUL.search(text) else set()
            return sorted(start for start in found if start and _is_inside(text, start))

        for text in texts:
            yield text, starts(text)


def _is_inside(text: str, place: int) -> bool:
    """Whether Hangul stands on both sides."""
    return all(HANGUL.match(character) for character in text[place - 1 : place + 1])
