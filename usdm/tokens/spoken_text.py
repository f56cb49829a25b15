"""Written English to the words that a speaker says: numbers, times and prices spelled out, lower case."""

from __future__ import annotations

import re
import unicodedata

from usdm.types import InputError

_TIME = re.compile(r"\b(\d{1,2}):(\d{2})\b")
_MERIDIEM = re.compile(r"(?<=\d)\s*([ap])\.?\s?m\b\.?")  # only after a digit: "i am" is no time
_LETTERS = str.maketrans({"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O"})
_COUNT = r"\d{1,3}(?:,\d{3})+|\d+"  # "12,500" is one number
_PRICE = re.compile(rf"([$€£])\s?({_COUNT})(?:\.(\d\d))?(?![\d.,]*\d)")
_LARGE_PRICE = re.compile(rf"([$€£])\s?((?:{_COUNT})(?:\.\d+)?\s(?:thousand|million|billion|trillion))\b")
_COMMA_BEFORE_POINT = re.compile(r"(?<=\d),(?=(?:\d{3},)*\d{3}\.\d)")
_LONG_COUNT = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,]*\d)")
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound"}
_MINUS = re.compile(r"(?<![\w.,:-])[-\u2212](?=\d)")
_ORDINAL = re.compile(r"\b(\d+)(st|nd|rd|th)\b")
_DECIMAL = re.compile(r"\b(\d+)\.(\d+)\b")
_LONG_NUMBER = re.compile(r"\b\d[\d-]{4,}\b")  # of telephones, bookings and houses; a count has its commas
_NUMBER = re.compile(r"\d+")
_TYPOGRAPHY = str.maketrans(
    {"’": "'", "‘": "'", "“": " ", "”": " ", "!": ".", ";": ",", ":": ","}
    | {"&": " and ", "%": " percent ", "+": " plus ", "@": " at "}
)


def spoken_text(text: str) -> str:
    """Lower-case words, apostrophes, and `,` `.` `?` as the only punctuation. Letters lose their accents; what has no
    English letters at all is left out.

    >>> spoken_text("At 6:30 PM, for $20. OK!")
    'at six thirty p m, for twenty dollars. ok.'
    """
    text = _plain(text).lower()
    text = _MERIDIEM.sub(r" \1 m", text)
    text = _TIME.sub(_say_time, text)
    text = _MINUS.sub(" minus ", text)
    text = _LARGE_PRICE.sub(lambda match: f"{match[2]} {_CURRENCIES[match[1]]}s", text)
    text = _PRICE.sub(_say_price, text)
    text = _COMMA_BEFORE_POINT.sub("", text)
    text = _LONG_COUNT.sub(lambda match: _count(match[0]), text)
    text = _LONG_NUMBER.sub(_say_digits, text)
    text = _ORDINAL.sub(lambda match: _words(int(match[1]), to="ordinal"), text)
    text = _DECIMAL.sub(lambda match: f"{match[1]} point {_digits(match[2])}", text)
    text = _NUMBER.sub(lambda match: f" {_words(int(match[0]))} ", text)
    text = text.translate(_TYPOGRAPHY)
    text = re.sub(r"[^a-z',.? ]+", " ", text)
    text = re.sub(r"(?<![a-z])'|'(?![a-z])", " ", text)  # quotes, not apostrophes
    text = re.sub(r"\s*([,.?])[,.?\s]*", r"\1 ", text)
    text = re.sub(r"\s+", " ", text).strip(" ,")
    return text if not text or text[-1] in ".?" else text + "."


def written_in_english(text: str) -> str:
    """`spoken_text`, for what must not lose a word unseen: what people type, and what request files hold.

    Raises InputError for letters that are not English ones, and for a text without words.
    """
    foreign = dict.fromkeys(
        character
        for character in unicodedata.normalize("NFC", _plain(text))
        if unicodedata.category(character)[0] in "LN" and not character.isascii()
    )
    if foreign:
        raise InputError(f"{text!r}: this model reads English letters and digits, not {' '.join(foreign)}; spell it so")
    if not spoken_words(spoken := spoken_text(text)):
        raise InputError(f"{text!r}: there are no words in it; give some")
    return spoken


def spoken_words(text: str) -> list[str]:
    """The words of a text in spoken form, of whatever language, without punctuation."""
    return re.findall(r"(?:[^\W\d_]|')+", text)


def _plain(text: str) -> str:
    """Without accents, and letters of other widths and styles as the usual ones."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _words(number: int, to: str = "cardinal") -> str:
    from num2words import num2words  # its languages take long to import, and most texts have no numbers

    try:
        return re.sub(r"[^a-z]+", " ", num2words(number, to=to)).replace(" and ", " ")
    except OverflowError:  # more than it has names for
        return _digits(str(number))


def _count(written: str) -> str:
    return _words(int(written.replace(",", "")))


def _digits(digits: str) -> str:
    return " ".join(_words(int(digit)) for digit in digits)


def _say_time(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), int(match[2])
    if minute == 0:
        meridiem_follows = re.match(r" [ap] m\b", match.string[match.end() :])
        return _words(hour) if meridiem_follows else f"{_words(hour)} o'clock"
    return f"{_words(hour)} {'oh ' if minute < 10 else ''}{_words(minute)}"


def _say_price(match: re.Match[str]) -> str:
    amount = _count(match[2])
    said = f"{amount} {_CURRENCIES[match[1]]}{'' if amount == 'one' else 's'}"
    return f"{said} {_words(int(match[3]))}" if match[3] and int(match[3]) else said


def _say_digits(match: re.Match[str]) -> str:
    return ", ".join(_digits(group) for group in match[0].split("-") if group)
