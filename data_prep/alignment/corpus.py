"""`align`: word times into a speech corpus' manifest, shard by shard, resumable."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from data_prep.alignment.aligned import Aligned, Aligner, Unaligned
from data_prep.alignment.boundaries import BoundaryError, boundary_error
from data_prep.files import write_atomically
from usdm.data.speech_corpus import MANIFEST_FILE, Utterance, read_speech_corpora
from usdm.types import AlignedWord, InputError

logger = logging.getLogger(__name__)

SHARDS, MAKER_FILE = "alignment", "aligner.json"
REPORT_FILE, PROBLEMS_FILE = "alignment.json", "alignment_problems.jsonl"
_SPEED_ONLY = ("device", "batch_seconds")  # settings that do not change what is found
_TRANSCRIBE = "transcribe"  # the setting of an aligner that makes do without text


@dataclass(frozen=True)
class AlignmentReport:
    """What became of the utterances; also in `alignment.json`."""

    utterances: int
    aligned: int  # with text
    without_text: int
    heard: int  # of these, utterances that got the phones of what the aligner heard
    words: int
    confidence: float | None  # mean over words; None where the aligner knows none
    interpolated: int  # words with nothing to align
    unknown: int  # words or characters that the aligner has no symbol for
    failed: int  # utterances with text that got no word times
    against_known: BoundaryError | None  # against the times that the corpus had before


@dataclass(frozen=True)
class _Shard:
    path: Path
    utterances: Sequence[Utterance]


def align_corpus(
    corpus: str,
    aligner: Callable[[], Aligner],
    output_dir: str,
    *,
    shard_utterances: int,
    max_failed_share: float,
    processes: int,
) -> AlignmentReport:
    """Write `output_dir/manifest.jsonl`: the corpus' own lines, with `words`, `word_confidence` and perhaps `phones`
    and `pronunciation`.

    `output_dir` may be the corpus itself, whose manifest is then replaced. Beside it lie `alignment.json` (the
    report), `alignment_problems.jsonl` (utterances with anything unknown, interpolated or failed) and the finished
    shards in `alignment/`. Utterances without text, or that failed, stay in the manifest without word times; an
    aligner that transcribes may give those without text phones and a pronunciation.

    Args:
        aligner: makes the aligner, in each process.
        processes: several have one CPU thread each.

    Raises:
        InputError: the corpus is no speech corpus, shards of another aligner lie in `output_dir`, or more than
            `max_failed_share` of the utterances with text failed.
    """
    folder = Path(output_dir)
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    utterances = [u for u in read_speech_corpora([corpus]) if u.text or _transcribes(aligner)]
    _claim(folder / SHARDS, aligner, utterances)
    shards = [
        _Shard(folder / SHARDS / f"{number:05d}.jsonl", utterances[start : start + shard_utterances])
        for number, start in enumerate(range(0, len(utterances), shard_utterances))
    ]
    todo = [shard for shard in shards if not shard.path.exists()]
    logger.info("%d of %d shards are there already", len(shards) - len(todo), len(shards))
    for _ in tqdm(_align_shards(todo, aligner, processes), total=len(todo), unit="shard", desc="align"):
        pass
    found = {row["id"]: row for shard in shards for row in _rows(shard.path)}
    report = _report(corpus, found)
    problems = [row for row in found.values() if row["unknown"] or row["interpolated"] or row["failed"]]
    _write_lines(folder / PROBLEMS_FILE, problems)
    write_atomically(folder / REPORT_FILE, json.dumps(asdict(report), indent=1) + "\n")
    with_text = report.utterances - report.without_text
    if report.failed > max_failed_share * with_text:
        raise InputError(
            f"{report.failed} of {with_text} utterances could not be aligned; at most a share of "
            f"{max_failed_share:g} may fail. {folder / PROBLEMS_FILE} lists them: mend the corpus, or raise "
            "max_failed_share."
        )
    _write_manifest(Path(corpus), folder, found)
    return report


def _claim(folder: Path, aligner: Callable[[], Aligner], utterances: Sequence[Utterance]) -> None:
    """Shards belong to one aligner and one corpus."""
    texts = hashlib.sha256("\n".join(f"{u.id}\t{u.text}" for u in utterances).encode()).hexdigest()[:16]
    ours = {"aligner": _name(aligner), "corpus": texts}
    path = folder / MAKER_FILE
    if path.exists() and (theirs := json.loads(path.read_text())) != ours:
        raise InputError(
            f"{folder} holds shards of {theirs}, not of {ours}: take another output_dir, or delete that folder."
        )
    write_atomically(path, json.dumps(ours) + "\n")


def _name(aligner: Callable[[], Aligner]) -> str:
    if not isinstance(aligner, partial):
        return str(getattr(aligner, "__qualname__", aligner))
    settings = {key: value for key, value in aligner.keywords.items() if key not in _SPEED_ONLY}
    return f"{aligner.func.__qualname__}({', '.join(f'{key}={value!r}' for key, value in sorted(settings.items()))})"


def _transcribes(aligner: Callable[[], Aligner]) -> bool:
    return isinstance(aligner, partial) and bool(aligner.keywords.get(_TRANSCRIBE))


def _align_shards(shards: Sequence[_Shard], aligner: Callable[[], Aligner], processes: int) -> Iterator[None]:
    """One process is this one, with all its threads."""
    if processes == 1 and shards:
        yield from map(partial(_align_shard, aligner=aligner()), shards)
    elif shards:
        with multiprocessing.get_context("spawn").Pool(processes, _start_process, (aligner,)) as pool:
            yield from pool.imap_unordered(_align_shard, shards)


_aligner: Aligner  # of a process of the pool


def _start_process(aligner: Callable[[], Aligner]) -> None:
    global _aligner
    torch.set_num_threads(1)
    _aligner = aligner()


def _align_shard(shard: _Shard, aligner: Aligner | None = None) -> None:
    results = (aligner or _aligner)(shard.utterances)
    _write_lines(shard.path, [_row(u, result) for u, result in zip(shard.utterances, results, strict=True)])


def _row(utterance: Utterance, result: Aligned | Unaligned) -> dict:
    row: dict = {"id": utterance.id, "failed": None, "unknown": [], "interpolated": []}
    if isinstance(result, Unaligned):
        return row | {"failed": result.reason}
    return row | {
        "unknown": list(result.unknown),
        "interpolated": list(result.interpolated),
        "words": _spans(result.words),
        "word_confidence": [round(value, 4) for value in result.confidence] or None,
        "phones": _spans(result.phones) or None,
        "pronunciation": list(result.pronunciation) or None,
    }


def _spans(spans: Sequence[AlignedWord]) -> list[list]:
    return [[span.text, round(span.start, 3), round(span.end, 3)] for span in spans]


def _report(corpus: str, found: dict[str, dict]) -> AlignmentReport:
    utterances = read_speech_corpora([corpus])
    with_text = {utterance.id for utterance in utterances if utterance.text}
    aligned = [row for row in found.values() if not row["failed"] and row["id"] in with_text]
    confidence = [value for row in aligned for value in row["word_confidence"] or ()]
    pairs = (
        ([AlignedWord(*word) for word in found[u.id]["words"]], u.words)
        for u in utterances
        if u.words and not found.get(u.id, {"failed": True})["failed"]
    )
    return AlignmentReport(
        utterances=len(utterances),
        aligned=len(aligned),
        without_text=sum(not utterance.text for utterance in utterances),
        heard=sum(not row["failed"] and row["id"] not in with_text for row in found.values()),
        words=sum(len(row["words"]) for row in aligned),
        confidence=sum(confidence) / len(confidence) if confidence else None,
        interpolated=sum(len(row["interpolated"]) for row in aligned),
        unknown=sum(len(row["unknown"]) for row in aligned),
        failed=len(with_text) - len(aligned),
        against_known=boundary_error(pairs),
    )


def _write_manifest(corpus: Path, folder: Path, found: dict[str, dict]) -> None:
    rows = []
    for row in _rows(corpus / MANIFEST_FILE):
        aligned = found.get(row["id"], {})
        for key in ("words", "word_confidence", "phones"):
            row.pop(key, None)
            if aligned.get(key):
                row[key] = aligned[key]
        if aligned.get("pronunciation"):
            row["pronunciation"] = aligned["pronunciation"]
        if not Path(row["audio"]).is_absolute():
            row["audio"] = os.path.relpath(corpus / row["audio"], folder)
        rows.append(row)
    _write_lines(folder / MANIFEST_FILE, rows)


def _rows(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _write_lines(path: Path, rows: Sequence[dict]) -> None:
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
