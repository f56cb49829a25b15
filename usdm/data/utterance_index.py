"""Utterances of speech corpora by number, without their words in memory: what a training draws from."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from usdm.data.speech_corpus import Utterance, manifest_files, manifest_lines, parse_utterance


class UtteranceIndex:
    """Reads utterance i from its manifest whenever it is asked for: 32 bytes of memory an utterance.

    Manifests stay open, so one that is replaced meanwhile is no harm.
    """

    def __init__(
        self, manifests: tuple[tuple[Path, BinaryIO], ...], places: NDArray[np.int64], durations: NDArray[np.float64]
    ) -> None:
        self.durations = durations  # (N,) seconds
        self._manifests, self._places = manifests, places  # (N, 3): manifest, offset, length in bytes

    @classmethod
    def read(
        cls,
        folders: Sequence[str | Path],
        split: str,
        wanted: Callable[[Utterance], bool] = lambda utterance: True,
        *,
        once: bool = False,
    ) -> UtteranceIndex:
        """The utterances of a split that are wanted, in the order of the manifests; there may be none.

        Args:
            once: of several utterances that share a sound the last one stands in the first one's place.

        Raises:
            InputError: a manifest is missing, or a line of one is no utterance.
        """
        manifests = tuple((path, path.open("rb")) for path in manifest_files(folders))
        places, durations, sounds = array("q"), array("d"), bytearray()
        for number, (path, file) in enumerate(manifests):
            for row, offset, line in manifest_lines(file):
                utterance = parse_utterance(path, line, f"line {row}")
                if utterance.split == split and wanted(utterance):
                    places.extend((number, offset, len(line)))
                    durations.append(utterance.duration)
                    sounds += _digest(utterance) if once else b""
        found = np.frombuffer(places, np.int64).reshape(-1, 3)
        whole = cls(manifests, found, np.frombuffer(durations, np.float64))
        return whole.take(_last_in_the_place_of_first(np.frombuffer(sounds, np.uint64))) if once else whole

    @classmethod
    def joined(cls, indexes: Sequence[UtteranceIndex]) -> UtteranceIndex:
        """One after the other."""
        offsets = np.cumsum([0, *(len(index._manifests) for index in indexes[:-1])])
        places = [index._places + [offset, 0, 0] for index, offset in zip(indexes, offsets, strict=True)]
        manifests = tuple(manifest for index in indexes for manifest in index._manifests)
        return cls(manifests, np.concatenate(places), np.concatenate([index.durations for index in indexes]))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Utterance:
        place, offset, length = self._places[number].tolist()
        path, file = self._manifests[place]
        return parse_utterance(path, os.pread(file.fileno(), length, offset))

    def __iter__(self) -> Iterator[Utterance]:
        return map(self.__getitem__, range(len(self)))

    def take(self, numbers: NDArray[np.int64] | slice) -> UtteranceIndex:
        """These, in this order."""
        return UtteranceIndex(self._manifests, self._places[numbers], self.durations[numbers])


def _digest(utterance: Utterance) -> bytes:
    return blake2b(repr(utterance.sound).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _last_in_the_place_of_first(names: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Positions, one for each different name."""
    _, first = np.unique(names, return_index=True)
    _, last = np.unique(names[::-1], return_index=True)
    return len(names) - 1 - last[np.argsort(first)]
