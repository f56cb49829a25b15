"""The flite synthesiser (Debian package `flite`) through its C library.

The library tells where each phone and word of its own speech lies, so a corpus that it speaks needs no aligner.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from usdm.system_packages import install
from usdm.types import AlignedWord, InputError, Waveform

VOICES = ("kal16", "awb", "rms", "slt")
_TOKEN_OF_PHONE = b"R:SylStructure.parent.parent.R:Token.parent"


@dataclass(frozen=True)
class Synthesised:
    """Synthesised speech with its true phone and word times."""

    samples: np.ndarray  # (T,) int16
    sample_rate: int  # Hz
    phones: tuple[AlignedWord, ...]
    words: tuple[AlignedWord, ...]


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


def _load(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise InputError(f"The synthesiser's library {name} cannot be loaded ({error}): {install('flite')}.") from error


class Flite:
    """One flite voice.

    Args:
        voice: one of `VOICES`.

    Raises:
        InputError: the voice is unknown or the library is not installed.
    """

    def __init__(self, voice: str) -> None:
        if voice not in VOICES:
            raise InputError(f"Unknown flite voice '{voice}': choose one of {', '.join(VOICES)}.")
        self.name = voice

    @cached_property
    def _library(self) -> ctypes.CDLL:
        library = _load("libflite.so.1")
        pointer, text, real = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float
        for name, result, arguments in (
            ("flite_synth_text", pointer, [text, pointer]),
            ("utt_wave", ctypes.POINTER(_Wave), [pointer]),
            ("utt_relation", pointer, [pointer, text]),
            ("relation_head", pointer, [pointer]),
            ("item_next", pointer, [pointer]),
            ("item_feat_string", text, [pointer, text]),
            ("item_feat_float", real, [pointer, text]),
            ("path_to_item", pointer, [pointer, text]),
            ("delete_utterance", None, [pointer]),
            ("feat_set_float", None, [pointer, text, real]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        library.flite_init()
        return library

    @cached_property
    def _voice(self) -> ctypes._Pointer[_Voice]:
        for dependency in ("libflite_cmulex.so.1", "libflite_usenglish.so.1"):
            _load(dependency)
        register = getattr(_load(f"libflite_cmu_us_{self.name}.so.1"), f"register_cmu_us_{self.name}")
        register.restype, register.argtypes = ctypes.POINTER(_Voice), [ctypes.c_char_p]
        return register(None)

    def speak(self, text: str, *, stretch: float = 1.0) -> Synthesised:
        """Say `text`; `stretch` > 1 is slower speech.

        Raises:
            InputError: nothing in the text can be spoken.
        """
        if not text.isascii():
            raise InputError(f"flite cannot say {text!r}: write it in English letters.")
        library = self._library
        library.feat_set_float(self._voice.contents.features, b"duration_stretch", stretch)
        ctypes.CDLL(None).srand(1)  # it draws noise from C's rand: the same text shall always sound the same
        utterance = library.flite_synth_text(text.encode("ascii"), ctypes.cast(self._voice, ctypes.c_void_p))
        try:
            wave = library.utt_wave(utterance).contents
            samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()
            sample_rate = wave.sample_rate
            phones, words = self._times(utterance)
        finally:
            library.delete_utterance(utterance)
        if not words:
            raise InputError(f"The synthesiser found no word in {text!r}: write it in English letters.")
        return Synthesised(samples, sample_rate, phones, words)

    def _times(self, utterance: int) -> tuple[tuple[AlignedWord, ...], tuple[AlignedWord, ...]]:
        library = self._library
        phones: list[AlignedWord] = []
        words: list[AlignedWord] = []
        last_token, start = None, 0.0
        phone = library.relation_head(library.utt_relation(utterance, b"Segment"))
        while phone:
            name = library.item_feat_string(phone, b"name").decode()
            end = float(library.item_feat_float(phone, b"end"))
            phones.append(AlignedWord(name, start, end))
            token = library.path_to_item(phone, _TOKEN_OF_PHONE)
            if token and token == last_token:
                words[-1] = AlignedWord(words[-1].text, words[-1].start, end)
            elif token:
                words.append(AlignedWord(library.item_feat_string(token, b"name").decode(), start, end))
            last_token, start = token, end
            phone = library.item_next(phone)
        return tuple(phones), tuple(words)


class FliteVoice:
    """A flite voice as the last part of a cascade. Raises InputError as `Flite` does."""

    def __init__(self, voice: str) -> None:
        self._flite = Flite(voice)
        self.identity = f"flite {voice}"
        self.sample_rate = self("ready").sample_rate  # Hz

    def __call__(self, text: str) -> Waveform:
        """Raises InputError for a text without anything that can be spoken."""
        spoken = self._flite.speak(text.encode("ascii", "ignore").decode())  # English is what it knows
        return Waveform(torch.from_numpy(spoken.samples).float() / 32768, spoken.sample_rate)
