"""The number that a reply gives as its answer, said in words or in figures."""

from __future__ import annotations

import re

from usdm.assistants.choices import plain
from usdm.metrics.text import normalised

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\D)|\n")
_STATES = re.compile(r"\b(?:answer|total|result|altogether|in all|therefore|so)\b|=|\bequals?\b", re.IGNORECASE)
_AFTER_STATEMENT = re.compile(r"\b(?:answer|result)\b.*|=.*|\bequals?\b.*", re.IGNORECASE)


def numbers(text: str) -> list[float]:
    """All of them, in order; numbers in words by Whisper's normaliser.

    >>> numbers("Eighteen dollars, or 1,800 cents")
    [18.0, 1800.0]
    """
    return [float(found) for found in _NUMBER.findall(re.sub(r"[$£€¢%]", " ", normalised(text)))]


def stated_number(reply: str) -> float | None:
    """The one number that a reply states as its answer.

    It is the only number of the last sentence that states something ("the answer is", "so", "="), or after such words
    in it; else the only number of the whole reply. None where that is not one number.
    """
    sentences = [each for each in _SENTENCE_END.split(plain(reply)) if each.strip()]
    stating = [each for each in sentences if _STATES.search(each) and numbers(each)]
    if stating:
        found = set(numbers(stating[-1]))
        if len(found) > 1 and (after := _AFTER_STATEMENT.search(stating[-1])):
            found = set(numbers(re.split("=", after[0])[-1]))
        if len(found) == 1:
            return found.pop()
        return None
    found = set(numbers(reply))
    return found.pop() if len(found) == 1 else None


def reference_number(target: str) -> float | None:
    """Of a reference that is one number, or a worked solution that ends in "#### 18" (as GSM8K has them)."""
    final = target.rpartition("####")[2].strip()
    found = re.fullmatch(r"[$£€]?\s*(-?[\d,]+(?:\.\d+)?)\s*%?\.?", final)
    return float(found[1].replace(",", "")) if found and any(map(str.isdigit, found[1])) else None
