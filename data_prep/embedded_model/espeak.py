"""The eSpeak NG synthesiser (Debian package `espeak-ng`) through its C library: many voices, with word times.

Of languages other than English it tells the phones too, by its own names for them; English ones are flite's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from data_prep.embedded_model.flite import Synthesised
from usdm.system_packages import install
from usdm.types import AlignedWord, InputError

_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")  # speakers

_SYNCHRONOUS_RETRIEVAL = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come back through the callback
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_EVENT_LAST, _EVENT_WORD, _EVENT_CLAUSE_END, _EVENT_PHONEME = 0, 1, 5, 7  # espeak_EVENT_TYPE
_PAUSE = "_"  # how the names of pauses begin
_POSITION_CHARACTER, _CHARS_UTF8 = 1, 1
_PHONEME_EVENTS = 1  # espeakINITIALIZE_PHONEME_EVENTS


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # characters, from 1
        ("length", ctypes.c_int),  # characters
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),  # of a phoneme its name, in UTF-8
    ]


def voices(languages: Sequence[str]) -> tuple[str, ...]:
    """Every speaker variant of these languages, by eSpeak NG's names; all ship with the Debian package."""
    return tuple(f"{language}+{variant}" for language in languages for variant in _VARIANTS)


VOICES = (*voices(("en-us", "en", "en-gb-x-rp")), "ko", *voices(("ko",)))

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """All eSpeak NG voices. The C library holds one state a process: objects take turns, threads may not.

    A voice's flutter goes on from text to text, so that a text said again differs, in length by up to 0.2 %.

    Raises:
        InputError: the library or its voice data is not installed.
    """

    def __init__(self) -> None:
        self._library, self.sample_rate = _initialise()
        self._chunks: list[np.ndarray] = []
        self._word_starts: list[tuple[int, float]] = []
        self._phone_starts: list[tuple[str, float]] = []
        self._clause_starts: dict[int, float] = {}
        self._callback = _Callback(self._collect)

    def speak(self, text: str, voice: str, *, words_per_minute: int = 165, pitch: int = 50) -> Synthesised:
        """Say `text`. A word ends where the next one starts, and so does a phone, which only a pause may follow too.

        Raises:
            InputError: the voice is not installed, or nothing in the text can be spoken.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise InputError(f"Unknown eSpeak voice '{voice}': choose one of {', '.join(VOICES)}.")
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._chunks, self._word_starts, self._phone_starts, self._clause_starts = [], [], [], {0: 0.0}
        data = text.encode()
        self._library.espeak_SetSynthCallback(self._callback)  # the library may still hold another object's
        self._library.espeak_Synth(data, len(data) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        english = voice.startswith("en")
        if not (self._word_starts if english else self._phones(0.0)):
            raise InputError(f"The voice '{voice}' found no word in {text!r}: write it in its language's letters.")
        samples = np.concatenate(self._chunks)
        seconds = len(samples) / self.sample_rate
        if english:
            return Synthesised(samples, self.sample_rate, (), self._words(text, seconds, {}))
        words = self._words(text, seconds, self._clause_starts)
        return Synthesised(samples, self.sample_rate, self._phones(seconds), words)

    def _collect(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _EVENT_LAST:
            event = events[index]
            if event.type == _EVENT_WORD:
                self._word_starts.append((event.text_position - 1, event.audio_position / 1000))
            elif event.type == _EVENT_CLAUSE_END:
                self._clause_starts[event.text_position] = event.audio_position / 1000
            elif event.type == _EVENT_PHONEME:
                self._phone_starts.append((event.id.decode(errors="replace"), event.audio_position / 1000))
            index += 1
        return 0

    def _phones(self, seconds: float) -> tuple[AlignedWord, ...]:
        """Without pauses."""
        ends = [*(start for _, start in self._phone_starts[1:]), seconds]
        timed = zip(self._phone_starts, ends, strict=True)
        return tuple(AlignedWord(name, start, end) for (name, start), end in timed if name[:1] not in ("", _PAUSE))

    def _words(self, text: str, seconds: float, clauses: Mapping[int, float]) -> tuple[AlignedWord, ...]:
        """White-space words: an event may cover two of them, or only a part of one.

        `clauses`: when each begins, by its first character: eSpeak often tells of no first word of Korean ones.
        """
        starts = {**clauses, **dict(self._word_starts)}
        words: list[AlignedWord] = []
        position = 0
        for token in text.split():
            position = text.index(token, position)
            inside = [start for at, start in starts.items() if position <= at < position + len(token)]
            name = token.strip(",.?")
            if inside:
                if words:
                    words[-1] = AlignedWord(words[-1].text, words[-1].start, inside[0])
                words.append(AlignedWord(name, inside[0], seconds))
            elif words:  # spoken in one breath with the word before: they share its span
                words[-1] = AlignedWord(f"{words[-1].text} {name}", words[-1].start, seconds)
            position += len(token)
        return split_shared(words)


def split_shared(words: list[AlignedWord]) -> tuple[AlignedWord, ...]:
    """Divide a span that several words share, their texts joined by spaces, by their numbers of letters."""
    divided: list[AlignedWord] = []
    for word in words:
        parts = word.text.split()
        start, letters = word.start, sum(map(len, parts))
        for part in parts:
            end = start + (word.end - word.start) * len(part) / letters
            divided.append(AlignedWord(part, start, end))
            start = end
    return tuple(divided)


def espeak_library() -> ctypes.CDLL:
    """The C library, initialised.

    Raises:
        InputError: it, or its voice data, is not installed.
    """
    return _initialise()[0]


@lru_cache(maxsize=1)
def _initialise() -> tuple[ctypes.CDLL, int]:
    try:
        library = ctypes.CDLL("libespeak-ng.so.1")
    except OSError as error:
        raise InputError(f"eSpeak NG cannot be loaded ({error}): {install('espeak-ng')}.") from error
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
        ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    sample_rate = library.espeak_Initialize(_SYNCHRONOUS_RETRIEVAL, 500, None, _PHONEME_EVENTS)
    if sample_rate <= 0:
        raise InputError(f"eSpeak NG found no voice data: {install('espeak-ng')}.")
    return library, sample_rate
