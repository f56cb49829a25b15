"""PocketSphinx with the English model that its package brings: where given words lie, or which words it hears.

What is found depends on the sound alone, not on what was heard before. PocketSphinx subtracts a cepstral mean that it
learns from utterance to utterance; here the front end starts anew for each one, and a search for a single word, which
costs next to nothing, leaves the utterance's own mean for the searches that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from usdm.types import AlignedWord, InputError, Waveform

SAMPLE_RATE = 16_000  # Hz
_PCM16_FULL_SCALE = 32767
_STEP, _WINDOW = 0.010, 0.0256  # seconds: of a frame to the next, and that it sees
_ONE_WORD = "one word"  # name of a search
_FILLERS = ("<", "[")  # what names of silence and noise begin with
SILENCE = "SIL"  # the filler that is no noise, by the name of its phone
# About four times as fast as the default; what is heard gives phones, for which the words need not all be right.
_FAST = dict(beam=1e-40, wbeam=1e-24, pbeam=1e-40, maxhmmpf=4000, maxwpf=10, fwdflat=False)


@dataclass(frozen=True)
class DecodedWord:
    """A word of the text, or the silence or noise beside one; phones as PocketSphinx names them, in seconds."""

    is_filler: bool
    phones: tuple[AlignedWord, ...]


class ForcedSearch:
    """Finds the words of a text in its sound.

    Raises:
        InputError: the package is not installed.
    """

    def __init__(self) -> None:
        # With `bestpath` a third of the alignments end in "Failed to stop utterance processing".
        self._decoder = _decoder(bestpath=False, lm=None)

    def knows(self, word: str) -> bool:
        return self._decoder.lookup_word(word) is not None

    def add(self, word: str, phones: Sequence[str]) -> None:
        """A pronunciation, in the dictionary's names, of a word that it does not know."""
        self._decoder.add_word(word, " ".join(phones))

    def __call__(self, sound: Waveform, words: Sequence[str]) -> list[DecodedWord]:
        """The words, all known and in order, with silence between them where there is any.

        Raises:
            InputError: the words are not in the sound.
        """
        samples = _pcm16(sound)
        _take_mean(self._decoder, samples)
        self._decoder.set_align_text(" ".join(words))
        try:
            _hear(self._decoder, samples)
            if self._decoder.hyp() is None:
                raise InputError("PocketSphinx does not find the text in the sound: does it belong to it?")
            self._decoder.set_alignment()
            _hear(self._decoder, samples)
        except RuntimeError as error:
            raise InputError(f"PocketSphinx does not find the phones of the text in the sound ({error})") from error
        return [
            DecodedWord(
                word.name.startswith(_FILLERS),
                tuple(_timed(phone, sound.seconds) for phone in word),
            )
            for word in self._decoder.get_alignment()
        ]


class PhoneListener:
    """Hears which words are said.

    Raises:
        InputError: the package is not installed.
    """

    def __init__(self) -> None:
        self._decoder = _decoder(**_FAST)
        self._full_search = self._decoder.current_search()

    def __call__(self, sound: Waveform) -> list[str]:
        """Words of PocketSphinx's dictionary; none where it hears none."""
        samples = _pcm16(sound)
        _take_mean(self._decoder, samples)
        self._decoder.activate_search(self._full_search)
        _hear(self._decoder, samples)
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr.split() if hypothesis is not None else []


def _decoder(**settings: object) -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise InputError(
            "The aligner needs the package pocketsphinx, which is not installed: pip install 'usdm[evaluate]'."
        ) from error
    decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", **settings)
    decoder.add_keyphrase(_ONE_WORD, "hello")
    return decoder


def _pcm16(sound: Waveform) -> bytes:
    return (sound.samples.clamp(-1, 1) * _PCM16_FULL_SCALE).round().to(torch.int16).numpy().tobytes()


def _take_mean(decoder: Any, samples: bytes) -> None:
    decoder.reinit_feat()
    decoder.activate_search(_ONE_WORD)
    _hear(decoder, samples)


def _hear(decoder: Any, samples: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(samples, full_utt=True)
    decoder.end_utt()


def _timed(phone: Any, seconds: float) -> AlignedWord:
    return AlignedWord(phone.name, _boundary(phone.start, seconds), _boundary(phone.start + phone.duration, seconds))


def _boundary(frame: int, seconds: float) -> float:
    """Before `frame`: halfway between the middle of what it sees and the middle of what the frame before it sees."""
    return min(frame * _STEP + (_WINDOW - _STEP) / 2, seconds) if frame else 0.0
