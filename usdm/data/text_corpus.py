"""Text without speech, for a model that shall not forget how to write."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from usdm.data.fill_in_middle import FillInMiddle
from usdm.data.sequences import KIND_INDEX, TrainingSequence, cut
from usdm.interleave import keyed_generator
from usdm.tokens import IGNORED, SpeechTextVocabulary
from usdm.types import InputError

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 23  # read and shuffled at once
SUFFIXES = (".txt", ".jsonl")
_ROOM_FOR_MIDDLE = 16  # ids


class TextBlock(NamedTuple):
    """The lines of a file that begin from byte `start` on and before `start` + BLOCK_BYTES."""

    file: int
    start: int


class TextSequences:
    """Documents, one a line: of a .txt file, or under "text" in a .jsonl file.

    Longer documents are cut to rows. Speech tokens that a document spells out are left out of it. Lines without
    text are left out and counted in `left_out`.

    Args:
        paths: files, or folders of them.
        vocabulary: its text ids are used.
        max_length: longest sequence.
        seed: fixes the order.
        fill_in_middle: how documents are rearranged, each that fits a row, or each piece of a longer one; None: not.

    Raises:
        InputError: nothing there, a line of a .jsonl file that is no JSON with a "text", or tags that the tokenizer has
            not.
    """

    exact_order = False

    def __init__(
        self,
        paths: Sequence[str | Path],
        vocabulary: SpeechTextVocabulary,
        max_length: int,
        *,
        seed: int = 0,
        fill_in_middle: FillInMiddle | None = None,
    ) -> None:
        self.files = [file for path in paths for file in _text_files(Path(path))]
        self.vocabulary, self.max_length, self.seed = vocabulary, max_length, seed
        self.fill_in_middle = fill_in_middle
        if fill_in_middle is not None:
            fill_in_middle.check(vocabulary)
        self.left_out = 0
        self._is_text = vocabulary.text_mask.numpy()

    def blocks(self, epoch: int) -> list[TextBlock]:
        self.left_out = 0
        sizes = [file.stat().st_size for file in self.files]
        blocks = [TextBlock(i, start) for i, size in enumerate(sizes) for start in range(0, size, BLOCK_BYTES)]
        order = keyed_generator(self.seed, epoch, "order of text").permutation(len(blocks)).tolist()
        return [blocks[index] for index in order]

    def sequences(self, epoch: int, block: TextBlock, rows_before: int) -> Iterator[TrainingSequence]:
        documents = self._documents(block)
        name = f"order of text {block.file}/{block.start}"
        for index in keyed_generator(self.seed, epoch, name).permutation(len(documents)).tolist():
            text = np.array(self.vocabulary.encode_text(documents[index]), np.int32)
            if len(text := text[self._is_text[text]]):
                if self.fill_in_middle is not None:
                    random = keyed_generator(self.seed, epoch, f"middle of text {block.file}/{block.start}/{index}")
                    for piece in self._pieces(text):
                        arranged = self.fill_in_middle.ids(piece, self.vocabulary, random)
                        yield from cut(self._sequence(arranged), self.max_length)
                else:
                    yield from cut(self._sequence(text), self.max_length)
            else:
                self.left_out += 1

    def _documents(self, block: TextBlock) -> list[str]:
        file = self.files[block.file]
        lines: list[bytes] = []
        with file.open("rb") as opened:
            if block.start:
                opened.seek(block.start - 1)
                opened.readline()  # the line that began before the block, if only its end lies here
            while opened.tell() < block.start + BLOCK_BYTES and (line := opened.readline()):
                lines.append(line)
        if file.suffix == ".txt":
            return [line.decode("utf-8", errors="replace").strip() for line in lines]
        return [_text_of(line, file) for line in lines]

    def _pieces(self, text: NDArray[np.int32]) -> list[str]:
        """What fits a row each, with room for the tags and for ends of words that the cuts make."""
        room = max(1, self.max_length - _ROOM_FOR_MIDDLE)
        return [self.vocabulary.decode_text(text[start : start + room].tolist()) for start in range(0, len(text), room)]

    def _sequence(self, text: NDArray[np.int32]) -> TrainingSequence:
        ids = np.concatenate([self.vocabulary.start_ids, text, self.vocabulary.end_ids]).astype(np.int32)
        labels = ids.copy()
        labels[0] = IGNORED
        return TrainingSequence(ids, labels, np.full(len(ids), KIND_INDEX["text"], np.int8))


def _text_of(line: bytes, file: Path) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{file}: a line is no JSON with a "text" ({error!r}): {line[:80]!r}') from error
    return str(text).strip()


def _text_files(path: Path) -> list[Path]:
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files or not files[0].is_file() or files[0].suffix not in SUFFIXES:
        raise InputError(f"{path}: no text there; give a file, or a folder of files, that end in {', '.join(SUFFIXES)}")
    return files
