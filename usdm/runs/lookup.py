"""Rows found by their id in files that are larger than memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from usdm.runs.lines import Row


class RowsById:
    """Rows of JSON-lines files, read when they are asked for: 24 bytes of memory a row. Ids occur once.

    Raises:
        ValueError: a line is no JSON.
        KeyError: a row has no "id".
    """

    def __init__(self, files: Sequence[str | Path]) -> None:
        self.files = [Path(file) for file in files]
        digests, places = bytearray(), bytearray()
        for number, path in enumerate(self.files):
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    digests += _digest(json.loads(line)["id"])
                    places += np.array([number, offset], np.int64).tobytes()
                    offset += len(line)
        found = np.frombuffer(digests, np.uint64)
        order = np.argsort(found)
        self._digests, self._places = found[order], np.frombuffer(places, np.int64).reshape(-1, 2)[order]
        self._open: tuple[int, BinaryIO] | None = None  # rows that are asked for one after the other lie together

    def __len__(self) -> int:
        return len(self._digests)

    def get(self, name: str) -> Row | None:
        """The row with this id, None if there is none."""
        digest = np.frombuffer(_digest(name), np.uint64)[0]
        first = int(np.searchsorted(self._digests, digest))
        while first < len(self._digests) and self._digests[first] == digest:
            row = self._read(*self._places[first].tolist())
            if row["id"] == name:
                return row
            first += 1
        return None

    def _read(self, number: int, offset: int) -> Row:
        if self._open is None or self._open[0] != number:
            self.close()
            self._open = number, self.files[number].open("rb")
        file = self._open[1]
        file.seek(offset)
        row: Row = json.loads(file.readline())
        return row

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _digest(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=8).digest()
