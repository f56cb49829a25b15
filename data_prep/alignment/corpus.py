"""`align`: word times into a speech corpus' manifest, in shards that know which utterances they hold."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.alignment.aligned import Aligned, Aligner, Unaligned
from data_prep.alignment.boundaries import BoundaryError, BoundaryErrors
from usdm.data.speech_corpus import (
    MANIFEST_FILE,
    Utterance,
    manifest_files,
    manifest_lines,
    manifest_row,
    parse_utterance,
)
from usdm.runs import Arguments, RowsById, Shards, Task, arguments_of, claim, in_processes, publishing, write_text
from usdm.types import AlignedWord, InputError
from usdm.units.hub import hub_config

SHARDS = "alignment"
REPORT_FILE, PROBLEMS_FILE = "alignment.json", "alignment_problems.jsonl"
_SPEED_ONLY = ("device", "batch_seconds")  # settings that do not change what is found
_TRANSCRIBE = "transcribe"  # the setting of an aligner that makes do without text
_KEY = ("id", "audio", "start", "channel", "duration", "speaker", "text")  # what an aligner uses


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


def align_corpus(
    corpus: str,
    aligner: Callable[[], Aligner],
    output_dir: str,
    *,
    shard_utterances: int,
    max_failed_share: float,
    processes: int,
    retry_errors: bool = False,
    overwrite: bool = False,
) -> AlignmentReport:
    """Write `output_dir/manifest.jsonl`: the corpus' own lines, with `words`, `word_confidence` and perhaps `phones`
    and `pronunciation`.

    `output_dir` may be the corpus itself, whose manifest is then replaced. Beside it lie `alignment.json` (the
    report), `alignment_problems.jsonl` (utterances with anything unknown, interpolated or failed) and the finished
    shards in `alignment/`: the corpus may have grown since an earlier run. Utterances without text, or that failed,
    stay in the manifest without word times; an aligner that transcribes may give those without text phones and a
    pronunciation.

    Args:
        aligner: makes the aligner, in each process.
        processes: one is this one, with all its threads; of several each has one thread.
        retry_errors: utterances that failed are tried again.
        overwrite: delete what another aligner found, or what was found for utterances that are gone or changed.

    Raises:
        InputError: the corpus is no speech corpus, an utterance occurs twice, results of another aligner, or for
            utterances that are gone or changed, lie in `output_dir`, or more than `max_failed_share` of the utterances
            with text failed.
    """
    folder = Path(output_dir)
    (manifest,) = manifest_files([corpus])
    made_with = _arguments(aligner)
    with claim(
        folder / SHARDS,
        made_with.settings,
        {"corpus": corpus, **made_with.inputs},
        results=("*.jsonl", "rows/*"),
        beside=(MANIFEST_FILE, REPORT_FILE, PROBLEMS_FILE),
        grows=("corpus",),
        free=_SPEED_ONLY,
        overwrite=overwrite,
    ) as claimed:
        shards = Shards(folder / SHARDS, ".jsonl", partial(_key, transcribes=_transcribes(aligner)))
        share = shards.share([manifest], shard_utterances, overwrite=overwrite, retry_failed=retry_errors)
        made = in_processes(partial(_Worker, shards, aligner), share.tasks, processes)
        for _ in tqdm(made, total=len(share.tasks), unit="shard", desc="align"):
            pass
        failed = {row.id: row.message for row in shards.outcome(share).failed}
        found = RowsById([shard.path for shard in shards.done()])
        with publishing(folder / MANIFEST_FILE) as part:
            report = _merge(manifest, part, found, failed)
            write_text(folder / REPORT_FILE, json.dumps(asdict(report), indent=1) + "\n")
            with_text = report.utterances - report.without_text
            if report.failed > max_failed_share * with_text:
                raise InputError(
                    f"{report.failed} of {with_text} utterances could not be aligned; at most a share of "
                    f"{max_failed_share:g} may fail. {folder / PROBLEMS_FILE} lists them: mend the corpus and give "
                    "retry_errors=true, or raise max_failed_share."
                )
        in_place = manifest.samefile(folder / MANIFEST_FILE)
        claimed.finish(asdict(report), rewritten=["corpus"] if in_place else [])
    return report


def _arguments(aligner: Callable[[], Aligner]) -> Arguments:
    """What decides which aligner it is."""
    if not isinstance(aligner, partial):
        return Arguments({"aligner": str(getattr(aligner, "__qualname__", aligner))})
    arguments = arguments_of(aligner.func, aligner.keywords)
    for place in arguments.inputs.values():
        if not Path(str(place)).exists():
            hub_config(str(place))  # a model of the hub is known by its commit, once that is in the hub's cache
    return Arguments({"aligner": aligner.func.__qualname__, **arguments.settings}, arguments.inputs)


def _transcribes(aligner: Callable[[], Aligner]) -> bool:
    return isinstance(aligner, partial) and bool(aligner.keywords.get(_TRANSCRIBE))


def _key(line: bytes, transcribes: bool) -> bytes | None:
    row = manifest_row(line)
    if not (row.get("text") or transcribes):
        return None
    return json.dumps([row.get(name) for name in _KEY]).encode()


class _Worker:
    """Aligns shards, in one process."""

    def __init__(self, shards: Shards, aligner: Callable[[], Aligner], number: int) -> None:
        self.shards, self.aligner = shards, aligner()

    def __call__(self, task: Task) -> None:
        with self.shards.making(task) as (part, failed), part.open("w", encoding="utf-8") as file:
            utterances = [parse_utterance(path, line) for path, line in task.rows]
            for utterance, result in zip(utterances, self.aligner(utterances), strict=True):
                if isinstance(result, Unaligned):
                    failed[utterance.id] = result.reason
                else:
                    file.write(json.dumps(_row(utterance, result)) + "\n")


def _row(utterance: Utterance, result: Aligned) -> dict:
    return {
        "id": utterance.id,
        "unknown": list(result.unknown),
        "interpolated": list(result.interpolated),
        "words": _spans(result.words),
        "word_confidence": [round(value, 4) for value in result.confidence] or None,
        "phones": _spans(result.phones) or None,
        "pronunciation": list(result.pronunciation) or None,
        "known": _spans(utterance.words),  # as the corpus had them
    }


def _spans(spans: Sequence[AlignedWord]) -> list[list]:
    return [[span.text, round(span.start, 3), round(span.end, 3)] for span in spans]


def _merge(manifest: Path, target: Path, found: RowsById, failed: dict[str, str]) -> AlignmentReport:
    """Write the manifest anew with what was found, and the list of problems; one line in memory at a time."""
    counts: Counter[str] = Counter()
    confidence, errors = 0.0, BoundaryErrors()
    with (
        manifest.open("rb") as lines,
        target.open("w", encoding="utf-8") as file,
        publishing(target.with_name(PROBLEMS_FILE)) as part,
        part.open("w", encoding="utf-8") as problems,
    ):
        for _, _, line in manifest_lines(lines):
            row = json.loads(line)
            aligned = found.get(row["id"])
            counts.update({"utterances": 1, "without text": not row.get("text")})
            if aligned is not None and row.get("text"):
                counts.update({"aligned": 1, "words": len(aligned["words"])})
                counts.update({name: len(aligned[name]) for name in ("unknown", "interpolated")})
                counts["with confidence"] += len(aligned["word_confidence"] or ())
                confidence += sum(aligned["word_confidence"] or ())
                errors.add(*([AlignedWord(*span) for span in aligned[name]] for name in ("words", "known")))
            elif aligned is not None:
                counts["heard"] += 1
            if problem := _problem(row["id"], aligned, failed):
                problems.write(json.dumps(problem) + "\n")
            file.write(json.dumps(_with_times(row, aligned or {}, manifest.parent, target.parent)) + "\n")
    return AlignmentReport(
        utterances=counts["utterances"],
        aligned=counts["aligned"],
        without_text=counts["without text"],
        heard=counts["heard"],
        words=counts["words"],
        confidence=confidence / counts["with confidence"] if counts["with confidence"] else None,
        interpolated=counts["interpolated"],
        unknown=counts["unknown"],
        failed=counts["utterances"] - counts["without text"] - counts["aligned"],
        against_known=errors.figures(),
    )


def _problem(name: str, aligned: dict[str, Any] | None, failed: dict[str, str]) -> dict[str, Any] | None:
    """A line of the list of problems."""
    if name in failed:
        return {"id": name, "failed": failed[name], "unknown": [], "interpolated": []}
    if aligned is not None and (aligned["unknown"] or aligned["interpolated"]):
        return {"id": name, "failed": None, "unknown": aligned["unknown"], "interpolated": aligned["interpolated"]}
    return None


def _with_times(row: dict[str, Any], aligned: dict[str, Any], corpus: Path, folder: Path) -> dict[str, Any]:
    """A line of the manifest, its sound found from the new folder."""
    for key in ("words", "word_confidence", "phones"):
        if aligned.get(key):
            row[key] = aligned[key]  # in its place, so that a second run writes the same line
        else:
            row.pop(key, None)
    if aligned.get("pronunciation"):
        row["pronunciation"] = aligned["pronunciation"]
    if not Path(row["audio"]).is_absolute():
        row["audio"] = os.path.relpath(corpus / row["audio"], folder)
    return row
