"""The recipe's own encoder as an aligner: phones frame by frame, pronounced as flite's lexicon has them (English).

`usdm train_encoder` trains a linear head that tells the phones at the layer which the units are taken from. Its folder
`model/` holds the encoder up to that layer and the head: `phones.json` (names in the order of their ids, the first is
the pause; labels a unit; samples of padding) and `phones.safetensors` (`weight`, `bias`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from data_prep.alignment.spelling import Spelling, letters, said
from data_prep.embedded_model.flite import Flite
from usdm.training.encoder import PHONES_FILE
from usdm.types import InputError
from usdm.units.encoder import channel_statistics, encode, frame_count, load_encoder
from usdm.units.extractor import normalised

HEAD_FILE = "phones.safetensors"
PAUSE = "pau"  # flite's name; stands in for the blank, since it may come between any two phones
_LETTERS = "abcdefghijklmnopqrstuvwxyz'"


class PhoneHead:
    """A `data_prep.alignment.windows.CtcModel` over phones.

    Args:
        folder: with the encoder and its head, see above.

    Raises:
        InputError: a file is missing or damaged, the head does not fit the encoder, or flite is not installed.
    """

    sample_rate = 16_000  # Hz
    blank = 0
    delimiter: int | None = None

    def __init__(self, folder: str | Path, *, device: str = "cpu") -> None:
        folder = Path(folder)
        for name in (PHONES_FILE, HEAD_FILE):
            if not (folder / name).is_file():
                raise InputError(f"{folder}: {name} is missing; give the folder model/ of `usdm train_encoder`.")
        self.device = device
        self.encoder = load_encoder(folder).to(device).eval()
        try:
            settings = json.loads((folder / PHONES_FILE).read_bytes())
            self.phones: list[str] = settings["phones"]
            self.labels_per_unit: int = settings["labels_per_unit"]
            self.padding: int = settings["padding"]
            head = load_file(folder / HEAD_FILE, device=device)
            self.weight, self.bias = head["weight"], head["bias"]
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError(
                f"{folder}: {PHONES_FILE} or {HEAD_FILE} is damaged ({error!r}); train it again."
            ) from error
        expected = (self.labels_per_unit * len(self.phones), self.encoder.config.hidden_size)
        if self.weight.shape != expected or self.phones[0] != PAUSE:
            raise InputError(f"{folder}: the head is {tuple(self.weight.shape)}, {PHONES_FILE} wants {expected}.")
        self._ids = {name: index for index, name in enumerate(self.phones)}
        stride = int(torch.tensor(self.encoder.config.conv_stride).prod())
        self.frame_samples = stride // self.labels_per_unit
        self._flite = Flite("kal16")

    def name(self, symbol: int) -> str:
        return self.phones[symbol]

    def spell(self, words: Sequence[str]) -> list[Spelling]:
        """As flite says them in a row, so that neighbours have their say ("the apple"); numbers as words."""
        said_words = [[_bare(part) for part in said(word, "en").split()] for word in words]
        pronounced = iter(self._pronounce([bare for row in said_words for bare, _ in row if bare]))
        spellings = []
        for row in said_words:
            phones = [phone for bare, _ in row if bare for phone in next(pronounced)]
            strange = [letter for _, left_over in row for letter in left_over]
            strange += [phone for phone in phones if phone not in self._ids]
            ids = tuple(self._ids[phone] for phone in phones if phone in self._ids)
            spellings.append(Spelling(ids, " ".join(strange)))
        return spellings

    def _pronounce(self, words: list[str]) -> list[list[str]]:
        """Phones of each spoken word."""
        if not words:
            return []
        spoken = self._flite.speak(" ".join(words))
        if [word.text for word in spoken.words] != words:  # a token that flite reads in its own way
            return [self._alone(word) for word in words]
        starts = [word.start for word in spoken.words]
        rows: list[list[str]] = [[] for _ in words]
        for phone in spoken.phones:
            if phone.text != PAUSE:
                rows[sum(start <= phone.start + 1e-6 for start in starts) - 1].append(phone.text)
        return rows

    def _alone(self, word: str) -> list[str]:
        return [phone.text for phone in self._flite.speak(word).phones if phone.text != PAUSE]

    @torch.inference_mode()
    def log_probs(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        sounds = [normalised(waveform, self.padding) for waveform in waveforms]
        units = [frame_count(self.encoder.config, len(sound)) for sound in sounds]
        hidden = encode(self.encoder, sounds, [channel_statistics(self.encoder, sound) for sound in sounds])
        logits = functional.linear(hidden, self.weight, self.bias)  # (B, U, labels * phones)
        frames = logits.unflatten(-1, (self.labels_per_unit, -1)).flatten(1, 2).log_softmax(-1)
        return [row[: count * self.labels_per_unit] for row, count in zip(frames, units, strict=True)]


def _bare(part: str) -> tuple[str, str]:
    """A spoken word in flite's letters, and what it has no letter for."""
    known, unknown = letters(part, _LETTERS.__contains__, "en")
    return known.strip("'"), unknown
