"""The eSpeak NG synthesiser (Debian package `espeak-ng`) through its C library: many voices, with word times."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np

from data_prep.embedded_model.flite import Synthesised
from usdm.system_packages import install
from usdm.types import AlignedWord, InputError

# A language (American, British, Received Pronunciation) and a speaker variant each; all ship with the Debian package.
VOICES = tuple(
    f"{language}+{variant}"
    for language in ("en-us", "en", "en-gb-x-rp")
    for variant in ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")
)

_SYNCHRONOUS_RETRIEVAL = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come back through the callback
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_EVENT_END, _EVENT_WORD = 0, 1  # espeakEVENT_LIST_TERMINATED, espeakEVENT_WORD
_POSITION_CHARACTER, _CHARS_ASCII = 1, 1


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # characters, from 1
        ("length", ctypes.c_int),  # characters
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """All eSpeak NG voices; the C library holds one state a process, so one object a process is enough.

    Raises:
        InputError: the library or its voice data is not installed.
    """

    def __init__(self) -> None:
        self._library, self.sample_rate = _initialise()
        self._chunks: list[np.ndarray] = []
        self._word_starts: list[tuple[int, int, float]] = []
        self._callback = _Callback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str, *, words_per_minute: int = 165, pitch: int = 50) -> Synthesised:
        """Say `text` (ASCII). Phone times are not known; a word ends where the next one starts.

        Raises:
            InputError: the voice is not installed, or nothing in the text can be spoken.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise InputError(f"Unknown eSpeak voice '{voice}': choose one of {', '.join(VOICES)}.")
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._chunks, self._word_starts = [], []
        data = text.encode("ascii")
        self._library.espeak_Synth(data, len(data) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_ASCII, None, None)
        if not self._word_starts:
            raise InputError(f"The synthesiser found no word in {text!r}: write it in English letters.")
        samples = np.concatenate(self._chunks)
        return Synthesised(samples, self.sample_rate, (), self._words(text, len(samples) / self.sample_rate))

    def _collect(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _EVENT_END:
            if events[index].type == _EVENT_WORD:
                event = events[index]
                self._word_starts.append((event.text_position - 1, event.length, event.audio_position / 1000))
            index += 1
        return 0

    def _words(self, text: str, seconds: float) -> tuple[AlignedWord, ...]:
        """White-space words: an event may cover two of them, or only a part of one."""
        starts = {position: start for position, _, start in self._word_starts}
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
    sample_rate = library.espeak_Initialize(_SYNCHRONOUS_RETRIEVAL, 500, None, 0)
    if sample_rate <= 0:
        raise InputError(f"eSpeak NG found no voice data: {install('espeak-ng')}.")
    return library, sample_rate
