"""Which choice a reply makes: a letter, or yes or no. What is not said plainly, or is said both ways, is unparsed.

The published scorers of VoiceBench search the reply for some hundred phrases in a fixed order, and draw a random
answer where none is found. Here a reply is read in tiers: a stated answer ("the answer is B", "B is correct"), then
how it begins ("B. Because ..."), then letters in brackets or after "option". The first tier in which anything is found
decides, and only if all that it finds is the same.
"""

from __future__ import annotations

import re

_MARKUP = re.compile(r"\\(?:boxed|text|textbf|mathbf)\b|\\[()\[\]]|[*_`{}$\"“”]")
_APOSTROPHE = re.compile(r"(?<=\w)[’‘](?=\w)")
# A capital that stands alone names a choice, unless it is the article that begins a sentence ("A dog is ...").
_ARTICLE = r"(?<![^\s])(?<![a-z,;:] )A(?= (?!is\b|would\b|seems\b|because\b)[a-z])"
_CAPITAL = re.compile(r"(?<!\w)(?<!\w')([A-J])(?!\w|'\w)")

_END = r"(?=\s*(?:$|[.,:;!?)\]'\n-])|\s+(?:because|since|as|which)\b)"  # what may follow the lower-case "a"
_LETTER = rf"[(\['‘]?(?:⟦([a-j])⟧|(?<!\w)([b-hj])(?!\w|'\w)|(?<!\w)(a)(?!\w|'\w){_END})"
_HEDGE = r"(?:(?:therefore|then|thus|most likely|likely|probably|definitely|typically|simply|clearly)\s+)?"
_NAMED = r"(?:the\s+)?(?:(?:option|choice|letter|answer|number|sentence)\s+)?"
_STATED = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?:answer|option|choice|one|response|solution|order|sentence|conclusion)\b[^.!?\n]{0,60}?"
        rf"\b(?:is|be|was|as)\b\s*:?\s*{_HEDGE}{_NAMED}{_LETTER}",
        rf"\b(?:answer|choice)\s*[:=]?\s*{_NAMED}{_LETTER}",
        rf"\b(?:it|that|this|which)(?:'s| is| would be| must be| should be) {_HEDGE}{_NAMED}{_LETTER}",
        rf"\b(?:select|choose|pick|say|go with|going with|corresponds to)\s*:?\s+{_NAMED}{_LETTER}",
        rf"{_LETTER}[)\]']?\s+(?:is|would be|seems to be|must be)\s+(?:the\s+)?"
        r"(?:(?:correct|right|best|true|most \w+)\b|answer\b)",
    )
)
_LEADING = re.compile(rf"^{_NAMED}{_LETTER}[)\]']?(?=$|\s*[.,:;!?)\]\n-]|\s)")
_MARKED = tuple(
    re.compile(pattern)
    for pattern in (
        r"\(⟦([a-j])⟧\)",
        r"\(([a-j])\)",
        r"\b(?:option|choice|sentence) (?:⟦([a-j])⟧|([a-j])(?!\w|'\w))"
        r"(?! (?:is|was|are) (?:not|wrong|incorrect)| isn't)",
        r"(?:^|\s)⟦([a-j])⟧[).:](?=\s|$)",
    )
)


def plain(reply: str) -> str:
    """Without Markdown and LaTeX, single spaces, straight apostrophes."""
    text = _MARKUP.sub(" ", _APOSTROPHE.sub("'", reply))
    return re.sub(r"[ \t]+", " ", re.sub(r"\s*\n\s*", "\n", text)).strip()


def chosen_letter(reply: str, letters: str = "ABCD") -> str | None:
    """The capital letter that the reply chooses among `letters`; None where none, or more than one, is chosen."""
    text = re.sub(_ARTICLE, "a", plain(reply))
    text = _CAPITAL.sub(lambda match: f"⟦{match[1].lower()}⟧", text).lower()
    for tier in (_STATED, (_LEADING,), _MARKED):
        found = [match for pattern in tier for match in pattern.finditer(text)]
        names = {next(group for group in match.groups() if group).upper() for match in found}
        if names:
            name = names.pop()
            return name if not names and name in letters else None
    return None


_SAYS = r"\b(?:answer|conclusion|prefix|result|verdict)\b[^.!?\n]{0,40}?"
_STATED_YES = re.compile(rf"{_SAYS}\b(?:yes|true)\b", re.IGNORECASE)
_STATED_NO = re.compile(rf"{_SAYS}\b(?:no|false)\b", re.IGNORECASE)
_BEGINS = re.compile(r"^\W*(?:(yes|true)|(no|false))\b", re.IGNORECASE)

# How the three yes-or-no tasks of BIG-Bench Hard are answered in a sentence: (it is so, it is not so).
SENTENCES = {
    "sports_understanding": (
        r"\b(?:plausible|possible|likely true)\b",
        r"\b(?:implausible|unlikely|impossible)\b"
        r"|(?:\bnot\b|n[' ]t\b|\bnever\b)[^.!?\n]{0,25}\b(?:plausible|possible|accurate|likely)\b",
    ),
    "navigate": (
        r"\b(?:return|returned|returns|end up|ends up|back|are|be)\b[^.!?\n]{0,25}"
        r"\b(?:starting (?:point|position)|where (?:you|i|we) started)\b",
        r"(?:\bnot\b|n[' ]t\b|\bnever\b|\bcannot\b)[^.!?\n]{0,40}"
        r"\b(?:starting (?:point|position)|where (?:you|i|we) started)\b",
    ),
    "web_of_lies": (
        r"\b(?:tells|telling|told|tell) the truth\b",
        r"(?:\bnot\b|n[' ]t\b)[^.!?\n]{0,15}\b(?:tell|telling) the truth\b|\b(?:lies|lying|lied)\b",
    ),
}


def says_yes(reply: str, task: str) -> bool | None:
    """Whether the reply answers yes; None where it answers neither, or both. `task`: one of `SENTENCES`."""
    text = plain(reply)
    yes, no = bool(_STATED_YES.search(text)), bool(_STATED_NO.search(text))
    if yes or no:
        return yes if yes != no else None
    if (begins := _BEGINS.match(text)) is not None:
        return begins[1] is not None
    so, not_so = (re.compile(pattern, re.IGNORECASE) for pattern in SENTENCES[task])
    denied = bool(not_so.search(text))
    affirmed = bool(so.search(not_so.sub(" ", text)))
    return affirmed if affirmed != denied else None
