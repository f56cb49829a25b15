"""Written Korean to the words that a speaker says: numbers as they are counted, letters spelled, Hangul kept."""

from __future__ import annotations

import re
import unicodedata

from usdm.types import InputError

HANGUL = re.compile(r"[\uac00-\ud7a3]")  # whole syllables
_CRIES = re.compile(r"[\u3131-\u318e]+")  # single letters, as in a written laugh or sob: nobody says them
_LETTERS = {
    **{"a": "에이", "b": "비", "c": "씨", "d": "디", "e": "이", "f": "에프", "g": "지", "h": "에이치", "i": "아이"},
    **{"j": "제이", "k": "케이", "l": "엘", "m": "엠", "n": "엔", "o": "오", "p": "피", "q": "큐", "r": "아르"},
    **{"s": "에스", "t": "티", "u": "유", "v": "브이", "w": "더블유", "x": "엑스", "y": "와이", "z": "제트"},
}
_SYMBOLS = str.maketrans({"%": "퍼센트", "&": " 앤 ", "+": " 더하기 ", "@": " 골뱅이 "})
_PUNCTUATION = str.maketrans({"!": ".", "。": ".", ";": ",", ":": ",", "…": ".", "、": ","})
_DEGREES = str.maketrans({"℃": "도"})  # before its letter is taken apart
_CURRENCIES = {"$": "달러", "€": "유로", "£": "파운드", "₩": "원"}

# What is counted in Korean numerals (한, 두, 세), up to 99. All else is counted in Chinese ones (일, 이, 삼).
_NATIVE_COUNTERS = (
    *("시간", "시", "살", "개", "명", "사람", "번째", "번", "마리", "잔", "병", "권", "장", "대", "가지", "달"),
    *("켤레", "그루", "송이", "군데", "곳", "채", "벌", "쌍", "배", "그릇", "판", "통", "줄"),
)
_CHINESE_DESPITE = ("개월", "달러", "번지", "번호", "시즌")  # begin like one of them
_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
_ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")
_DIGITS = "영일이삼사오육칠팔구"

_COUNT = r"\d{1,3}(?:,\d{3})+|\d+"  # "12,500" is one number
_TIME = re.compile(r"(?<!\d)(\d{1,2}):(\d{2})(?!\d)")
_PRICE = re.compile(rf"([$€£₩])\s?({_COUNT})")
_TELEPHONE = re.compile(r"(?<!\d)0\d{1,2}(?:-\d{3,4}){1,2}(?!\d)")
_MINUS = re.compile(r"(?<![\w.,-])[-\u2212](?=\d)")
_DECIMAL = re.compile(r"(\d+)\.(\d+)")
_COUNTED = re.compile(rf"({_COUNT})\s?({'|'.join(_NATIVE_COUNTERS)})")
_NUMBER = re.compile(_COUNT)


def spoken_korean(text: str) -> str:
    """Hangul, and `,` `.` `?` as the only punctuation. What has neither Hangul, digits nor letters is left out.

    >>> spoken_korean("12시 30분에 2명, 3.5% OK!")
    '열두 시 삼십분에 두 명, 삼점오퍼센트 오케이.'
    """
    text = _CRIES.sub(" ", unicodedata.normalize("NFC", text))
    text = unicodedata.normalize("NFKC", text.translate(_DEGREES)).lower()
    text = _TELEPHONE.sub(lambda match: " ".join(_spell(part, "공") for part in match[0].split("-")), text)
    text = _TIME.sub(lambda match: f"{match[1]}시" + (f" {int(match[2])}분" if int(match[2]) else ""), text)
    text = _PRICE.sub(lambda match: f"{match[2]}{_CURRENCIES[match[1]]}", text)
    text = _MINUS.sub("마이너스 ", text)
    text = _DECIMAL.sub(lambda match: f"{_say(match[1])}점{_spell(match[2])}", text)
    text = _COUNTED.sub(_count, text)
    text = _NUMBER.sub(lambda match: _say(match[0]), text)
    text = re.sub("[a-z]", lambda match: _LETTERS[match[0]], text.translate(_SYMBOLS)).translate(_PUNCTUATION)
    text = re.sub(r"[^\uac00-\ud7a3,.? ]+", " ", text)
    text = re.sub(r"\s*([,.?])[,.?\s]*", r"\1 ", text)
    text = re.sub(r"\s+", " ", text).strip(" ,")
    text = re.sub(r"^[.? ]+", "", text)
    return text if not text or text[-1] in ".?" else text + "."


def written_in_korean(text: str) -> str:
    """`spoken_korean`, for what must not lose a word unseen.

    Raises InputError for a text without Hangul, and for letters that are neither Hangul nor English.
    """
    check_korean(text)
    foreign = dict.fromkeys(
        character
        for character in unicodedata.normalize("NFKC", _CRIES.sub(" ", text))
        if unicodedata.category(character)[0] in "LN" and not character.isascii() and not HANGUL.match(character)
    )
    if foreign:
        raise InputError(f"{text!r}: Korean is read in Hangul, not {' '.join(foreign)}; spell it so")
    return spoken_korean(text)


def check_korean(text: str) -> None:
    """Raises InputError for a text without Hangul."""
    if not HANGUL.search(unicodedata.normalize("NFC", text)):
        raise InputError(f"{text!r}: there is no Hangul in it; write it in Korean, or choose language=en")


def _count(match: re.Match[str]) -> str:
    number, counter = int(match[1].replace(",", "")), match[2]
    following = match.string[match.start(2) :]
    late_hour = counter == "시" and number > 12  # "13시" is read 십삼 시
    decade = counter == "대" and number % 10 == 0  # "20대" are people in their twenties
    if 0 < number < 100 and not late_hour and not decade and not following.startswith(_CHINESE_DESPITE):
        return f"{_native(number, counter)} {counter}"
    return f"{_say(match[1])}{counter}"


def _native(number: int, counter: str) -> str:
    """Before what is counted: 한, 두, ..., 스무, 스물한."""
    if counter == "번째" and number == 1:
        return "첫"
    return "스무" if number == 20 else _TENS[number // 10] + _ONES[number % 10]


def _say(written: str) -> str:
    from num2words import num2words  # its languages take long to import, and most texts have no numbers

    digits = written.replace(",", "")
    if len(digits) > 1 and digits[0] == "0":
        return _spell(digits, "공")
    try:
        return str(num2words(int(digits), lang="ko")).strip()
    except (OverflowError, IndexError):  # more than it has names for
        return _spell(digits)


def _spell(digits: str, zero: str = "영") -> str:
    return "".join(zero if digit == "0" else _DIGITS[int(digit)] for digit in digits)
