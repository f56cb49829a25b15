"""The RHVoice synthesiser (Debian packages `librhvoice5`, `rhvoice-english`) through its C library, with word times."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np

from data_prep.embedded_model.espeak import split_shared
from data_prep.embedded_model.flite import Synthesised
from usdm.system_packages import install
from usdm.types import AlignedWord, InputError

VOICES = ("alan", "bdl", "clb", "slt")  # the package's voices whose licence allows any use of their speech

_DATA, _CONFIGURATION = b"/usr/share/RHVoice", b"/etc/RHVoice"
_TEXT = 0  # RHVoice_message_text

_SampleRate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_Speech = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_uint, ctypes.c_void_p)
_Span = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)


class _Callbacks(ctypes.Structure):
    _fields_ = [
        ("set_sample_rate", _SampleRate),
        ("play_speech", _Speech),
        ("process_mark", ctypes.c_void_p),
        ("word_starts", _Span),
        ("word_ends", _Span),
        ("sentence_starts", ctypes.c_void_p),
        ("sentence_ends", ctypes.c_void_p),
        ("play_audio", ctypes.c_void_p),
        ("done", ctypes.c_void_p),
    ]


class _InitParams(ctypes.Structure):
    _fields_ = [
        ("data_path", ctypes.c_char_p),
        ("config_path", ctypes.c_char_p),
        ("resource_paths", ctypes.c_void_p),
        ("callbacks", _Callbacks),
        ("options", ctypes.c_uint),
    ]


class _SynthParams(ctypes.Structure):
    _fields_ = [
        ("voice_profile", ctypes.c_char_p),
        *((f"absolute_{name}", ctypes.c_double) for name in ("rate", "pitch", "volume")),
        *((f"relative_{name}", ctypes.c_double) for name in ("rate", "pitch", "volume")),
        ("punctuation_mode", ctypes.c_int),
        ("punctuation_list", ctypes.c_char_p),
        ("capitals_mode", ctypes.c_int),
        ("flags", ctypes.c_int),
    ]


class RHVoice:
    """All RHVoice voices; the engine keeps one message at a time, so one object a process is enough.

    Raises:
        InputError: the library or its English voices are not installed.
    """

    def __init__(self) -> None:
        self._library = _load()
        self.sample_rate = 24000
        self._chunks: list[np.ndarray] = []
        self._spans: list[tuple[int, int, float]] = []  # first character, number of characters, start in samples
        self._callbacks = _Callbacks(
            set_sample_rate=_SampleRate(self._take_rate),
            play_speech=_Speech(self._take_speech),
            word_starts=_Span(self._take_word),
        )
        parameters = _InitParams(data_path=_DATA, config_path=_CONFIGURATION, callbacks=self._callbacks)
        self._engine = self._library.RHVoice_new_tts_engine(ctypes.byref(parameters))
        if not self._engine:
            raise InputError(f"RHVoice found no voice: {install('rhvoice-english')}.")

    def speak(self, text: str, voice: str, *, rate: float = 1.0, pitch: float = 1.0) -> Synthesised:
        """Say `text` (ASCII), `rate` times as fast and `pitch` times as high. A word ends where the next one starts.

        Raises:
            InputError: the voice is unknown, or nothing in the text can be spoken.
        """
        if voice not in VOICES:
            raise InputError(f"Unknown RHVoice voice '{voice}': choose one of {', '.join(VOICES)}.")
        self._chunks, self._spans = [], []
        data = text.encode("ascii")
        parameters = _SynthParams(voice_profile=voice.encode(), relative_rate=rate, relative_pitch=pitch)
        parameters.relative_volume = 1.0
        message = self._library.RHVoice_new_message(
            self._engine, data, len(data), _TEXT, ctypes.byref(parameters), None
        )
        if message:
            self._library.RHVoice_speak(message)
            self._library.RHVoice_delete_message(message)
        if not self._spans:
            raise InputError(f"The synthesiser found no word in {text!r}: write it in English letters.")
        samples = np.concatenate(self._chunks)
        return Synthesised(samples, self.sample_rate, (), self._words(text, len(samples)))

    def _take_rate(self, sample_rate: int, _: object) -> int:
        self.sample_rate = sample_rate
        return 1

    def _take_speech(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _: object) -> int:
        self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 1

    def _take_word(self, position: int, length: int, _: object) -> int:
        self._spans.append((position, length, sum(map(len, self._chunks))))
        return 1

    def _words(self, text: str, num_samples: int) -> tuple[AlignedWord, ...]:
        """White-space words; speech comes in pieces, and the words that start within one piece share its span."""
        ends = [start for _, _, start in self._spans[1:]] + [num_samples]
        words: list[AlignedWord] = []
        joined = ""
        for (position, length, start), end in zip(self._spans, ends, strict=True):
            joined = f"{joined} {text[position : position + length].strip(',.?')}".strip()
            if end > start:
                words.append(AlignedWord(joined, start / self.sample_rate, end / self.sample_rate))
                joined = ""
        return split_shared(words)


@lru_cache(maxsize=1)
def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libRHVoice.so.5")
    except OSError as error:
        raise InputError(f"RHVoice cannot be loaded ({error}): {install('librhvoice5', 'rhvoice-english')}.") from error
    library.RHVoice_new_tts_engine.restype = ctypes.c_void_p
    library.RHVoice_new_tts_engine.argtypes = [ctypes.POINTER(_InitParams)]
    library.RHVoice_new_message.restype = ctypes.c_void_p
    library.RHVoice_new_message.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_int, ctypes.POINTER(_SynthParams), ctypes.c_void_p,
    ]  # fmt: skip
    library.RHVoice_speak.argtypes = [ctypes.c_void_p]
    library.RHVoice_delete_message.argtypes = [ctypes.c_void_p]
    return library
