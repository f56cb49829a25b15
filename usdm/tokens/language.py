"""What a language changes: how its texts are written as they are spoken, and which eSpeak NG voices say them.

One file of settings for each in `conf/language`. A language of one's own is a dataclass with the same members, in any
module that Python can import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from usdm.tokens.korean import check_korean, spoken_korean
from usdm.tokens.spoken_text import spoken_text


class Language(Protocol):
    """See this module's docstring."""

    @property
    def name(self) -> str:
        """ISO 639-1 code."""

    @property
    def espeak(self) -> Sequence[str]:
        """Names of eSpeak NG's voices for it; a speaker variant such as `+f2` follows them."""

    def spoken_text(self, text: str) -> str:
        """In lower case, numbers in words, with `,` `.` `?` as the only punctuation; "" if nothing can be said."""

    def check(self, text: str) -> None:
        """Raises InputError for a text that is plainly of another language."""


@dataclass(frozen=True)
class English:
    """American, British, and Received Pronunciation."""

    name: str = "en"
    espeak: tuple[str, ...] = ("en-us", "en", "en-gb-x-rp")

    def spoken_text(self, text: str) -> str:
        return spoken_text(text)

    def check(self, text: str) -> None:
        """Its synthesisers say themselves what they cannot read."""


def told_apart(language: Language) -> dict[str, str]:
    """What a result's identity says of a language: nothing of English, as before there was another."""
    return {} if isinstance(language, English) else {"language": language.name}


@dataclass(frozen=True)
class Korean:
    """Standard Korean, in Hangul."""

    name: str = "ko"
    espeak: tuple[str, ...] = ("ko",)

    def spoken_text(self, text: str) -> str:
        return spoken_korean(text)

    def check(self, text: str) -> None:
        check_korean(text)
