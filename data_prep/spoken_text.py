"""Written English to the words that a speaker says: numbers, times and prices spelled out, lower case."""

from __future__ import annotations

import re

from num2words import num2words

_TIME = re.compile(r"\b(\d{1,2}):(\d{2})\b")
_MERIDIEM = re.compile(r"(?<=\d)\s*([ap])\.?\s?m\b\.?")  # only after a digit: "i am" is no time
_PRICE = re.compile(r"\$\s?(\d[\d,]*)(?:\.(\d{2}))?")
_ORDINAL = re.compile(r"\b(\d+)(st|nd|rd|th)\b")
_DECIMAL = re.compile(r"\b(\d+)\.(\d+)\b")
_LONG_NUMBER = re.compile(r"\b\d[\d-]{4,}\b")
_NUMBER = re.compile(r"\d+")
_TYPOGRAPHY = str.maketrans(
    {"’": "'", "‘": "'", "“": " ", "”": " ", "!": ".", ";": ",", ":": ",", "&": " and ", "%": " percent "}
)


def spoken_text(text: str) -> str:
    """Lower-case words, apostrophes, and `,` `.` `?` as the only punctuation.

    >>> spoken_text("At 6:30 PM, for $20. OK!")
    'at six thirty p m, for twenty dollars. ok.'
    """
    text = text.lower()
    text = _MERIDIEM.sub(r" \1 m", text)
    text = _TIME.sub(_say_time, text)
    text = _PRICE.sub(_say_price, text)
    text = _LONG_NUMBER.sub(_say_digits, text)
    text = _ORDINAL.sub(lambda match: _words(int(match[1]), to="ordinal"), text)
    text = _DECIMAL.sub(lambda match: f"{_words(int(match[1]))} point {_digits(match[2])}", text)
    text = _NUMBER.sub(lambda match: f" {_words(int(match[0]))} ", text)
    text = text.translate(_TYPOGRAPHY)
    text = re.sub(r"[^a-z',.? ]+", " ", text)
    text = re.sub(r"(?<![a-z])'|'(?![a-z])", " ", text)  # quotes, not apostrophes
    text = re.sub(r"\s*([,.?])[,.?\s]*", r"\1 ", text)
    text = re.sub(r"\s+", " ", text).strip(" ,")
    return text if not text or text[-1] in ".?" else text + "."


def spoken_words(text: str) -> list[str]:
    """The words of a text that went through `spoken_text`, without punctuation."""
    return re.findall(r"[a-z']+", text)


def _words(number: int, to: str = "cardinal") -> str:
    return re.sub(r"[^a-z]+", " ", num2words(number, to=to)).replace(" and ", " ")


def _digits(digits: str) -> str:
    return " ".join(_words(int(digit)) for digit in digits)


def _say_time(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), int(match[2])
    if minute == 0:
        meridiem_follows = re.match(r" [ap] m\b", match.string[match.end() :])
        return _words(hour) if meridiem_follows else f"{_words(hour)} o'clock"
    return f"{_words(hour)} {'oh ' if minute < 10 else ''}{_words(minute)}"


def _say_price(match: re.Match[str]) -> str:
    dollars = int(match[1].replace(",", ""))
    said = f"{_words(dollars)} dollar{'' if dollars == 1 else 's'}"
    return f"{said} {_words(int(match[2]))}" if match[2] and int(match[2]) else said


def _say_digits(match: re.Match[str]) -> str:
    return ", ".join(_digits(group) for group in match[0].split("-") if group)
