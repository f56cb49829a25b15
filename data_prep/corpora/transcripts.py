"""Transcribers' marks out of the text of corpora that have them; what is left empty was no speech."""

from __future__ import annotations

import re

_GIGASPEECH_POINTS = {" <COMMA>": ",", " <PERIOD>": ".", " <QUESTIONMARK>": "?", " <EXCLAMATIONPOINT>": "!"}
_GIGASPEECH_SOUNDS = re.compile(r"<(?:SIL|MUSIC|NOISE|OTHER)>")
_FISHER_SOUNDS = re.compile(r"\[\[?[^\]]*\]\]?")  # [laughter], [[skip]]
_LAUGHED = re.compile(r"\[laughter-([^\]]+)\]")
_MISPRONOUNCED = re.compile(r"\[[^\]/]+/([^\]]+)\]")  # [as said/as meant]
_ASIDE = re.compile(r"<[be]_aside>")
_SOUNDS = re.compile(r"\[(?:noise|laughter|silence|vocalized-noise)\]")
_UNSPOKEN = re.compile(r"\[[^\]]*\]")  # the part of a broken-off word that was not said: th[at]-
_VARIANT = re.compile(r"_\d+\b")  # about_1


def gigaspeech(text: str) -> str:
    """
    >>> gigaspeech("AS THEY SAY <COMMA> YES <PERIOD>")
    'as they say, yes.'
    """
    for mark, point in _GIGASPEECH_POINTS.items():
        text = text.replace(mark, point)
    return _GIGASPEECH_SOUNDS.sub(" ", text).lower().strip()


def fisher(text: str) -> str:
    """
    >>> fisher("[laughter] i- i watch (( the )) c._n._n.")
    'i- i watch the c. n. n.'
    """
    text = _FISHER_SOUNDS.sub(" ", text).replace("((", " ").replace("))", " ")
    return " ".join(text.replace("_", " ").split())


def switchboard(text: str) -> str:
    """
    >>> switchboard("[noise] th[at]- about_1 [laughter-yeah] {alrighty} <b_aside> [lemguini/linguini] [laughter]")
    'th- about yeah alrighty linguini'
    """
    for pattern, replacement in ((_SOUNDS, " "), (_ASIDE, " "), (_LAUGHED, r"\1"), (_MISPRONOUNCED, r"\1")):
        text = pattern.sub(replacement, text)
    text = _VARIANT.sub("", _UNSPOKEN.sub("", text))
    return " ".join(text.replace("{", " ").replace("}", " ").split())
