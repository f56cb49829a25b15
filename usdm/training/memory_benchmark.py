"""In how much memory data of any size is read: by a job of extraction, by index, and by pretraining.

The data is synthetic and deleted afterwards; what is measured depends on the number of utterances alone. Every
measurement has a process of its own and counts from what its imports left.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from usdm.data.packing import PackedRows
from usdm.data.speech_corpus import MANIFEST_FILE, check_ids, manifest_files, parse_utterance
from usdm.data.speech_text import SpeechTextSequences
from usdm.data.unit_corpus import UnitCorpus
from usdm.data.utterance_index import UtteranceIndex
from usdm.runs import Shards, write_text
from usdm.tokens import SpeechTextVocabulary
from usdm.training.data_benchmark import UNITS_PER_WORD, WORDS_PER_UTTERANCE, alone, write_synthetic_corpus
from usdm.types import InputError

SHARD_UTTERANCES = 1000  # as `extract_units` has it
STATUS = Path("/proc/self/status")
FORGET_PEAK = Path("/proc/self/clear_refs")  # of Linux: "5" makes the peak what is in memory now


@dataclass(frozen=True)
class MemoryUse:
    """What one reader took beyond its imports."""

    reader: str
    utterances: int
    bytes: int  # resident, at the peak


def benchmark_memory(
    vocabulary: SpeechTextVocabulary, folder: str | Path, *, utterances: list[int], max_length: int, rows: int
) -> list[MemoryUse]:
    """The peak of each reader over data of each size; also in `memory_benchmark.json`.

    `extract_units` plans the work of a single job over the whole manifest and reads one shard of it. `utterance index`
    is what the decoder, the vocoder and the encoder draw from: every line is read once, then a thousand by number.
    `pretrain` packs `rows` rows of `max_length` ids; it holds a block of about a thousand rows, however many there are.

    Args:
        vocabulary: saved into `folder` for the processes that measure.

    Raises:
        InputError: a number of utterances is not positive.
    """
    if min(utterances, default=1) < 1:
        raise InputError(f"memory_utterances={utterances}: give numbers of 1 or more")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.save_pretrained(folder)
    found = []
    for number in utterances:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            data = Path(place)
            _write_manifest(data / MANIFEST_FILE, number)
            _write_unit_corpus(data / "units", number, vocabulary.num_units)
            found += [
                MemoryUse("extract_units", number, alone(_extraction, data)),
                MemoryUse("utterance index", number, alone(_index, data)),
                MemoryUse("pretrain", number, alone(_pretraining, data, folder, max_length, rows)),
            ]
    write_text(folder / "memory_benchmark.json", json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return found


def peak_of(work: Callable[[], object]) -> int:
    """Bytes by which the resident memory of this process rises at most while the work is done (Linux)."""
    FORGET_PEAK.write_text("5")
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _extraction(data: Path) -> int:
    def read() -> None:
        manifests = manifest_files([data])
        check_ids(manifests)
        share = Shards(data / "shards", ".parquet").share(manifests, SHARD_UTTERANCES)
        for path, line in share.tasks[-1].rows:
            parse_utterance(path, line)

    return peak_of(read)


def _index(data: Path) -> int:
    def read() -> None:
        index = UtteranceIndex.read([data], "train")
        for number in range(0, len(index), max(1, len(index) // 1000)):
            index[number]

    return peak_of(read)


def _pretraining(data: Path, folder: Path, max_length: int, rows: int) -> int:
    vocabulary = SpeechTextVocabulary.from_pretrained(folder)

    def read() -> None:
        source = SpeechTextSequences(UnitCorpus(data / "units"), vocabulary, max_length)
        for _ in islice(PackedRows(source, max_length, vocabulary.pad_id), rows):
            pass

    return peak_of(read)


def _write_manifest(path: Path, utterances: int) -> None:
    """Lines with words and their times, like those of a corpus that was aligned."""
    words = [[f"word{place}", round(place / 4, 3), round((place + 1) / 4, 3)] for place in range(WORDS_PER_UTTERANCE)]
    text = " ".join(str(word) for word, _, _ in words)
    row = {"speaker": "s", "role": "user", "turn": 0, "split": "train", "text": text}
    rest = json.dumps(row | {"duration": WORDS_PER_UTTERANCE / 4, "sample_rate": 16000, "words": words})[1:]
    with path.open("w", encoding="utf-8") as file:
        for number in range(utterances):
            file.write(f'{{"id": "u{number}", "audio": "{number}.wav", "dialog": "d{number}", {rest}\n')


def _write_unit_corpus(folder: Path, utterances: int, num_units: int) -> None:
    """A file for each thousand utterances, as `extract_units` writes them; all hold the same ones."""
    folder.mkdir()
    first = folder / "000000.parquet"
    write_synthetic_corpus(first, min(utterances, SHARD_UTTERANCES) * WORDS_PER_UTTERANCE * UNITS_PER_WORD, num_units)
    for number in range(1, utterances // SHARD_UTTERANCES):
        shutil.copy(first, folder / f"{number:06d}.parquet")
