"""Whether a reply follows instructions that can be checked by rule: the 25 kinds of IFEval (arXiv 2311.07911).

Written anew after the paper and its released checks, which VoiceBench uses with one change that is kept here: an
empty reply follows nothing. Sentences are Punkt's (package nltk); where its English model is not installed
(`python -m nltk.downloader punkt_tab`) Punkt without a model splits them, and `sentence_splitter` says so.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol

from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktSentenceTokenizer

from usdm.types import InputError

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]
AT_LEAST, LESS_THAN = "at least", "less than"
WORD = re.compile(r"\w+")


def follows(reply: str, instruction: str, arguments: Arguments, *, loose: bool = False) -> bool:
    """Whether `reply` follows one instruction, with its arguments as the benchmark has them.

    `loose`: also without its first or last line, or both, and without asterisks; one of the eight is enough.

    Raises InputError for an instruction that is unknown, lacks an argument, or wants a package that is not there.
    """
    if instruction not in CHECKS:
        raise InputError(f"instruction {instruction!r}: there is no rule for it, only for {', '.join(CHECKS)}")
    check = CHECKS[instruction]
    readings = loosened(reply) if loose else [reply]
    try:
        return any(bool(text.strip()) and check(text, arguments) for text in readings)
    except KeyError as error:
        raise InputError(f"instruction {instruction!r} has no argument {error}; it has {dict(arguments)}") from error


def loosened(reply: str) -> list[str]:
    lines = reply.split("\n")
    cut = [reply, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cut + [text.replace("*", "") for text in cut]


def _compare(found: int, wanted: Any, relation: Any) -> bool:
    if relation not in (AT_LEAST, LESS_THAN):
        raise InputError(f"relation={relation!r}: it is '{AT_LEAST}' or '{LESS_THAN}'")
    return found < int(wanted) if relation == LESS_THAN else found >= int(wanted)


class _Splitter(Protocol):
    def tokenize(self, text: str) -> list[str]: ...


@cache
def _sentences() -> tuple[_Splitter, str]:
    import nltk

    try:
        return nltk.tokenize.PunktTokenizer("english"), "Punkt, English"
    except LookupError:
        return PunktSentenceTokenizer(), "Punkt without a model"


def sentence_splitter() -> str:
    """Its name, for whoever reads the figures."""
    return _sentences()[1]


def _language(text: str) -> str | None:
    """ISO 639-1; None where there is nothing to tell it from. Raises InputError where langdetect is missing."""
    try:
        import langdetect
    except ImportError as error:
        raise InputError(
            f"IFEval's languages need the package langdetect ({error}): pip install 'usdm[evaluate]'"
        ) from error
    langdetect.DetectorFactory.seed = 0  # it draws
    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:
        return None


def _written_in(text: str, language: str) -> bool:
    found = _language(text)
    return found is None or found == language  # what has no language offends none, as published


def _bullets(text: str, arguments: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE)) == int(arguments["num_bullets"])


def _highlights(text: str, arguments: Arguments) -> bool:
    single = [each.strip("*").strip() for each in re.findall(r"\*[^\n\*]*\*", text)]
    double = [each[2:-2].strip() for each in re.findall(r"\*\*[^\n\*]*\*\*", text)]
    return sum(map(bool, single + double)) >= int(arguments["num_highlights"])


def _sections(text: str, arguments: Arguments) -> bool:
    parts = re.split(rf"\s?{arguments['section_spliter']}\s?\d+\s?", text)
    return len(parts) - 1 >= int(arguments["num_sections"])


def _paragraphs(text: str, arguments: Arguments) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    filled = [bool(part.strip()) for part in parts]
    return all(filled[1:-1]) and sum(filled) == int(arguments["num_paragraphs"])


def _first_word(text: str, arguments: Arguments) -> bool:
    parts = text.split("\n\n")
    number = sum(bool(part.strip()) for part in parts)
    place = int(arguments["nth_paragraph"])
    if place > number or not (paragraph := parts[place - 1].strip()):
        return False
    word = re.split(r"[.,?!'\"]", paragraph.split()[0].lstrip("'").lstrip('"'))[0].lower()
    return number == int(arguments["num_paragraphs"]) and word == str(arguments["first_word"]).lower()


def _postscript(text: str, arguments: Arguments) -> bool:
    marker = str(arguments["postscript_marker"]).strip()
    patterns = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = patterns.get(marker, rf"\s*{marker.lower()}.*$")
    return re.search(pattern, text.lower(), re.MULTILINE) is not None


def _title(text: str, arguments: Arguments) -> bool:
    return any(each.lstrip("<").rstrip(">").strip() for each in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, arguments: Arguments) -> bool:
    parts = text.split("******")
    filled = [part.strip() for part in parts if part.strip()]
    inside_filled = all(part.strip() for part in parts[1:-1])
    return inside_filled and len(filled) == 2 and filled[0] != filled[1]


def _is_json(text: str, arguments: Arguments) -> bool:
    body = text.strip()
    for opening in ("```json", "```Json", "```JSON", "```"):
        body = body.removeprefix(opening)
    try:
        json.loads(body.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def _keyword_times(text: str, arguments: Arguments) -> bool:
    found = re.findall(str(arguments["keyword"]).strip(), text, re.IGNORECASE)
    return _compare(len(found), arguments["frequency"], arguments["relation"])


def _letter_times(text: str, arguments: Arguments) -> bool:
    letter = str(arguments["letter"]).strip().lower()
    return _compare(Counter(text.lower())[letter], arguments["let_frequency"], arguments["let_relation"])


def _capital_words(text: str, arguments: Arguments) -> bool:
    found = sum(word.isupper() for word in NLTKWordTokenizer().tokenize(text))
    return _compare(found, arguments["capital_frequency"], arguments["capital_relation"])


def _no_forbidden(text: str, arguments: Arguments) -> bool:
    words = arguments["forbidden_words"]
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in words)


def _quoted(text: str, arguments: Arguments) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: dict[str, Check] = {
    "keywords:existence": lambda text, given: all(re.search(word, text, re.IGNORECASE) for word in given["keywords"]),
    "keywords:frequency": _keyword_times,
    "keywords:forbidden_words": _no_forbidden,
    "keywords:letter_frequency": _letter_times,
    "language:response_language": lambda text, given: _written_in(text, given["language"]),
    "length_constraints:number_sentences": lambda text, given: _compare(
        len(_sentences()[0].tokenize(text)), given["num_sentences"], given["relation"]
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda text, given: _compare(
        len(WORD.findall(text)), given["num_words"], given["relation"]
    ),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda text, given: (
        len(re.findall(r"\[.*?\]", text)) >= int(given["num_placeholders"])
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text, given: any(
        answer in text for answer in ("My answer is yes.", "My answer is no.", "My answer is maybe.")
    ),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _is_json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda text, given: (
        text.strip().lower().startswith(str(given["prompt_to_repeat"]).strip().lower())
    ),
    "startend:end_checker": lambda text, given: (
        text.strip().strip('"').lower().endswith(str(given["end_phrase"]).strip().lower())
    ),
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text, given: text.isupper() and _written_in(text, "en"),
    "change_case:english_lowercase": lambda text, given: text.islower() and _written_in(text, "en"),
    "punctuation:no_comma": lambda text, given: "," not in text,
}
