"""The Kokoro synthesiser (hexgrad, Apache-2.0) in its ONNX export: natural voices, and blends of two; no word times.

eSpeak NG makes the phonemes, which are then written as Kokoro learnt them (as `EspeakFallback` of the package misaki).
"""

from __future__ import annotations

import ctypes
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.embedded_model.espeak import espeak_library
from data_prep.embedded_model.flite import Synthesised
from usdm.runs import split_revision
from usdm.types import InputError

HUB = "onnx-community/Kokoro-82M-v1.0-ONNX"
MODEL_FILE, SYMBOLS_FILE, VOICES_FOLDER = "onnx/model.onnx", "tokenizer.json", "voices"
SAMPLE_RATE = 24_000  # Hz
BLEND = "*"  # between the names of two voices, whose mean is a third
# The English voices: American and British, female and male. Others have names of the same kind.
VOICES = (
    *(f"af_{name}" for name in ("alloy", "aoede", "bella", "heart", "jessica", "kore", "nicole", "nova", "river")),
    *(f"af_{name}" for name in ("sarah", "sky")),
    *(f"am_{name}" for name in ("adam", "echo", "eric", "fenrir", "liam", "michael", "onyx", "puck", "santa")),
    *(f"bf_{name}" for name in ("alice", "emma", "isabella", "lily")),
    *(f"bm_{name}" for name in ("daniel", "fable", "george", "lewis")),
)

_STYLE = 256  # numbers of a voice, for each number of symbols
_MOST_SYMBOLS = 500
_IPA, _TIE = 0x02, 0x80  # espeak_TextToPhonemes
_UTF8 = 1
_PUNCTUATION = re.compile(r"\s*([,.?!;:])\s*")
# eSpeak's way of writing and Kokoro's, longest first; ^ ties two letters together.
_LETTERS = (
    ("ʔˌn̩", "ʔn"), ("ʔn̩", "ʔn"),
    ("a^ɪ", "I"), ("a^ʊ", "W"), ("d^ʒ", "ʤ"), ("e^ɪ", "A"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("ə^l", "ᵊl"),
    ("ʲo", "jo"), ("ʲə", "jə"), ("ʲ", ""), ("e", "A"), ("ɚ", "əɹ"), ("r", "ɹ"), ("x", "k"), ("ç", "k"),
    ("ɐ", "ə"), ("ɬ", "l"), ("̃", ""),
)  # fmt: skip
_BRITISH = (("e^ə", "ɛː"), ("iə", "ɪə"), ("ə^ʊ", "Q"))
_AMERICAN = (("o^ʊ", "O"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""))
_LAST = (("o", "ɔ"), ("ɾ", "T"), ("ʔ", "t"), ("^", ""))


class Kokoro:
    """All its voices; one thread.

    Args:
        model: name on the hub, or a folder laid out as there: `onnx/model.onnx`, `tokenizer.json`, `voices/*.bin`.

    Raises:
        InputError: the model cannot be had or is not complete, or onnxruntime or eSpeak NG is not installed.
    """

    def __init__(self, model: str | Path = HUB) -> None:
        self.model, self.folder = model, _folder(model)
        self._library = espeak_library()
        self._voices: dict[str, np.ndarray] = {}

    def speak(self, text: str, voice: str, *, speed: float = 1.0) -> Synthesised:
        """Say `text`; `voice` is a name, or two with `*` between them.

        Raises:
            InputError: the voice is not there, or the text cannot be spoken.
        """
        style = self._style(voice)
        known = (self._symbols.get(symbol) for symbol in self.phonemes(text, british=voice.startswith("b")))
        symbols = [symbol for symbol in known if symbol is not None]
        if not 0 < len(symbols) <= _MOST_SYMBOLS:
            raise InputError(f"{len(symbols)} phonemes in {text!r}: Kokoro says 1 to {_MOST_SYMBOLS} at once.")
        tokens, style_name, speed_name = (value.name for value in self._session.get_inputs())
        inputs = {
            tokens: np.array([[0, *symbols, 0]], dtype=np.int64),
            style_name: style[len(symbols)][None],
            speed_name: np.array([speed], dtype=np.float32),
        }
        sound = np.asarray(self._session.run(None, inputs)[0]).reshape(-1)
        return Synthesised((sound.clip(-1, 1) * 32767).astype(np.int16), SAMPLE_RATE, (), ())

    def phonemes(self, text: str, *, british: bool = False) -> str:
        """As Kokoro reads them, punctuation kept.

        Raises:
            InputError: eSpeak NG does not know the language.
        """
        if self._library.espeak_SetVoiceByName(b"en" if british else b"en-us"):
            raise InputError("eSpeak NG does not know English: its voice data is not installed.")
        parts = _PUNCTUATION.split(text)  # clauses and what stands between them, in turn
        spoken = "".join(f"{part} " if number % 2 else self._clause(part) for number, part in enumerate(parts))
        for old, new in (*_LETTERS, *(_BRITISH if british else _AMERICAN), *_LAST):
            spoken = spoken.replace(old, new)
        return re.sub(r"(\S)̩", r"ᵊ\1", spoken).replace("̩", "").strip()

    def _clause(self, text: str) -> str:
        """eSpeak NG's phonemes of words without punctuation."""
        left = ctypes.c_char_p(text.encode())
        spoken = []
        while left.value:
            spoken.append(
                self._library.espeak_TextToPhonemes(ctypes.byref(left), _UTF8, _IPA | _TIE | ord("^") << 8).decode()
            )
        return " ".join(spoken)

    def _style(self, voice: str) -> np.ndarray:
        """(numbers of symbols, 256) float32."""
        if voice not in self._voices:
            styles = []
            for name in voice.split(BLEND):
                path = self.folder / VOICES_FOLDER / f"{name}.bin"
                if not path.is_file():
                    raise InputError(f"Unknown Kokoro voice '{name}': {self.model} has no {VOICES_FOLDER}/{name}.bin.")
                styles.append(np.fromfile(path, dtype=np.float32).reshape(-1, _STYLE))
            self._voices[voice] = np.asarray(np.mean(styles, axis=0, dtype=np.float32))
        return self._voices[voice]

    @cached_property
    def _symbols(self) -> dict[str, int]:
        try:
            vocabulary = json.loads((self.folder / SYMBOLS_FILE).read_text(encoding="utf-8"))["model"]["vocab"]
            return {str(symbol): int(number) for symbol, number in vocabulary.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.folder / SYMBOLS_FILE} does not hold Kokoro's symbols ({error}).") from error

    @cached_property
    def _session(self) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError("Kokoro needs onnxruntime: pip install 'usdm[kokoro]'.") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            return onnxruntime.InferenceSession(self.folder / MODEL_FILE, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors have no common parent but this
            raise InputError(f"{self.folder / MODEL_FILE} cannot be loaded ({error}).") from error


def _folder(model: str | Path) -> Path:
    """Where the files lie, after a download if it must be."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        repository, revision = split_revision(model)
        files = [MODEL_FILE, SYMBOLS_FILE, f"{VOICES_FOLDER}/*.bin"]  # the last hold raw numbers
        return Path(snapshot_download(repository, revision=revision, allow_patterns=files))
    except (OSError, HFValidationError) as error:
        raise InputError(
            f"{model} is neither a folder nor to be had from the hub ({error}): download it, and give the local folder."
        ) from error
